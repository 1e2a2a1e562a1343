"""Code that reads input keeps its contract for any input. `make fuzz` tries more inputs."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz.bounds import bounded, bounded_memory
from tests.fuzz.run import FINDINGS, fuzz
from tests.fuzz.targets import TARGETS

RUNS = 400
"""Inputs for each target in a test run."""
NEEDS_ATHERIS = pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has wheels for Linux on x86-64 only")


@pytest.mark.parametrize("path", sorted(FINDINGS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_inputs_that_once_failed_pass_within_the_limits(path: Path) -> None:
    data = path.read_bytes()
    bounded(TARGETS[path.parent.name].run, data)
    bounded_memory(TARGETS[path.parent.name].run, data)


@NEEDS_ATHERIS
@pytest.mark.parametrize("target", TARGETS)
def test_each_target_passes_some_hundred_inputs(target: str, tmp_path: Path) -> None:
    """The inputs are derived from its seeds by coverage."""
    ended = fuzz(target, tmp_path, tmp_path / "failed", f"-runs={RUNS}", "-seed=1")
    assert ended.returncode == 0, ended.stdout[-5000:]
    assert f"stat::number_of_executed_units: {RUNS}" in ended.stdout
