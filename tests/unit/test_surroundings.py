"""Surroundings that are not as usual: no home, folders of another user, encodings that cannot express everything."""

import json
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stormfold.settings import Settings, variable

MAIN = "from stormfold.cli import main; main()"
NOBODY = 65_534
PATTERN = "ディスク不足 😀 größe"


def run(code: str, *words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code that calls the command line."""
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=cwd, env=os.environ | environment, capture_output=True,
        encoding="latin-1", timeout=60, check=False,
    )  # fmt: skip


def test_without_a_home_the_data_are_in_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The random user of a container has no entry in the password database."""

    def no_entry(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_DATA_HOME", variable("data_dir")):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    monkeypatch.chdir(tmp_path)
    assert Settings().data_dir == tmp_path / "stormfold"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize("inside", ["", "redis"])
def test_a_data_folder_of_another_user_is_one_line_and_a_command(shared: Path, inside: str) -> None:
    """As after `sudo stormfold up`: the whole folder, or a part of it."""
    data, root = shared / "data", os.geteuid() == 0
    # Without root the test cannot own a folder as another user; one that it must not write to has the same effect.
    mode, become_other = (0o755, f"os.seteuid({NOBODY})") if root else (0o500, "pass")
    data.mkdir(0o755 if inside else mode)
    if inside:
        (data / ".stormfold").touch()
        (data / inside).mkdir(mode)
        for path in (data, data / ".stormfold") if root else ():
            os.chown(path, NOBODY, NOBODY)
    done = run(f"import os, stormfold.cli.up; {become_other}; {MAIN}", "up", "--data", str(data), cwd=shared)
    assert done.returncode == 1
    problem, hint = done.stderr.splitlines()
    assert problem.startswith(f"stormfold: {data / inside}") and problem.endswith(": Permission denied")
    assert f"sudo chown -R $(id -u) {data / inside}" in hint


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_is_no_defect(tmp_path: Path, closed: str) -> None:
    """Nothing can get its number, and an alert that is to be read from it is missing."""
    config = tmp_path / "stormfold.yaml"
    config.write_text("windows: {gap: 60s}\n")
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", MAIN, "check", str(config), "--alert", "-"],
        cwd=tmp_path, input=b"" if closed != "<&-" else None, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert (b"standard input is empty" in done.stderr) == (closed != "2>&-")


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_documents_are_escaped_for_an_encoding_that_cannot_express_them(tmp_path: Path, output: str) -> None:
    code = f"from stormfold.cli import output; output.emit_document([{PATTERN!r}], {output!r})"
    done = run(code, cwd=tmp_path, PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert (json.loads if output == "json" else yaml.safe_load)(done.stdout) == [PATTERN]


def test_messages_are_escaped_for_an_encoding_that_cannot_express_them(tmp_path: Path) -> None:
    config = tmp_path / "stormfold.yaml"
    config.write_text(f"default_labels: {{cluster: {PATTERN}}}\n", encoding="utf-8")
    alert = tmp_path / "alert.json"
    alert.write_text('{"labels": {"alertname": "A"}}')
    done = run(MAIN, "check", str(config), "--alert", str(alert), cwd=tmp_path, PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u30c7\\u30a3\\u30b9\\u30af\\u4e0d\\u8db3 \\U0001f600 größe" in done.stdout
