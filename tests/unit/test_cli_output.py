"""The command that messages name."""

import sys
from pathlib import Path

import pytest

from stormfold.cli.output import program


def test_a_message_names_the_command_as_it_was_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [".venv/bin/stormfold", "up"])
    assert program() == ".venv/bin/stormfold"


def test_a_message_names_the_command_without_its_folder_if_it_is_on_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "stormfold"
    script.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(script), "up"])
    assert program() == "stormfold"
