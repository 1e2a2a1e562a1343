"""What reads input holds its promises for whatever it is given. `make fuzz` goes on for longer."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz.bounds import bounded, bounded_memory
from tests.fuzz.run import FINDINGS, fuzz
from tests.fuzz.targets import TARGETS

RUNS = 400
"""Of each target in the test run."""
NEEDS_ATHERIS = pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has wheels for Linux on x86-64 only")


@pytest.mark.parametrize("path", sorted(FINDINGS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_findings(path: Path) -> None:
    """What failed once does not any more, nor take much time or memory."""
    data = path.read_bytes()
    bounded(TARGETS[path.parent.name].run, data)
    bounded_memory(TARGETS[path.parent.name].run, data)


@NEEDS_ATHERIS
@pytest.mark.parametrize("target", TARGETS)
def test_some_runs(target: str, tmp_path: Path) -> None:
    """From its seeds on, each target stands a few hundred inputs that coverage leads to."""
    ended = fuzz(target, tmp_path, tmp_path / "failed", f"-runs={RUNS}", "-seed=1")
    assert ended.returncode == 0, ended.stdout[-5000:]
    assert f"stat::number_of_executed_units: {RUNS}" in ended.stdout
