"""The Makefile creates the environment, also after an attempt that failed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def test_an_environment_without_pip_is_created_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without python3-venv, Debian's Python writes `.venv` and then fails for want of pip."""
    monkeypatch.setenv("MAKEFLAGS", " -- BIN=/nowhere")
    shutil.copy(MAKEFILE, tmp_path)
    python, created = tmp_path / "bin" / "python3", tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir()

    def make(exit_code: int) -> int:
        python.write_text(
            f'#!/bin/sh\n[ "$1" != -m ] || {{ "{sys.executable}" -m venv --without-pip "$3" && exit {exit_code}; }}\n'
        )
        python.chmod(0o755)
        # The tests may have been started by make, which passes its options on.
        others = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        environment = others | {"PATH": f"{python.parent}:{os.environ['PATH']}"}
        return subprocess.run(["make", ".venv/bin/python"], cwd=tmp_path, env=environment, check=False).returncode

    assert make(1) != 0
    assert not created.exists()
    assert make(0) == 0
    assert created.exists()
