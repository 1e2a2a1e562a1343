"""The command that messages name, and tables on terminals of any width."""

import io
import sys
from pathlib import Path

import click
import pytest

from stormfold.cli.output import emit_table, fitting, program
from stormfold.cli.published import PRIORITY


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


NAME = "kubepodcrashlooping-cluster-production-eu-3f9ac1d27b04e611"
STORM = {
    "last seen": "2026-01-01T00:03:10.412Z", "namespace": "storms", "name": NAME, "class": "Storm",
    "severity": "critical", "alerts": 412, "resources": 55, "close reason": "Inactivity",
    "pattern": 'KubePodCrashLooping{cluster="production-eu"}',
}  # fmt: skip


class Terminal(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (40, ["NAME"]),
        (80, ["NAME", "SEVERITY", "ALERTS"]),
        (120, ["LAST SEEN", "NAME", "SEVERITY", "ALERTS", "RESOURCES"]),
        (240, [key.upper() for key in STORM]),
    ],
)
def test_a_narrow_terminal_shows_fewer_columns_and_names_on_one_line(
    monkeypatch: pytest.MonkeyPatch, width: int, columns: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    emit_table([STORM, STORM], list(STORM), PRIORITY)
    heading, _, *rows = click.unstyle(terminal.getvalue()).splitlines()
    assert [column for column in (key.upper() for key in STORM) if column in heading] == columns
    if width >= 80:
        assert len(rows) == 2 and all(NAME in row and len(row) <= width for row in rows)


def test_as_many_important_columns_as_fit_are_chosen_in_their_order() -> None:
    widths = {"a": 10, "b": 20, "c": 5}
    assert fitting(widths, ("b", "c", "a"), 41) == ["a", "b", "c"]
    assert fitting(widths, ("b", "c", "a"), 40) == ["b", "c"]
    assert fitting(widths, ("b", "c", "a"), 3) == ["b"]
