"""The wheel: built from a clean tree, installed from hashed locks into an empty environment, and run."""

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from stormfold import __version__
from tests.integration.deploy.files import ROOT

UV = (sys.executable, "-m", "uv", "--quiet")


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Runs a program that inherits nothing of this Python environment; returns its output, fails the test if it fails.

    Data of `stormfold demo` go to a folder in `cwd`.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    inherited["XDG_DATA_HOME"] = str(cwd / "data")
    done = subprocess.run(command, cwd=cwd, env=inherited, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def tree() -> str:
    """A commit with all tracked files as they are now."""
    return run("git", "stash", "create").strip() or "HEAD"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the tracked files alone."""
    folder = tmp_path_factory.mktemp("wheel")
    archive = folder / "tree.tar"
    run("git", "archive", "--output", archive, tree())
    source = folder / "source"
    source.mkdir()
    run("tar", "--extract", "--file", archive, "--directory", source)
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder / "dist", cwd=source)
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment that has only the wheel with its extra `local`, and what they require."""
    folder = tmp_path_factory.mktemp("environment")
    requirements = folder / "requirements.txt"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    requirements.write_text(f"stormfold[local] @ {wheel.as_uri()} --hash=sha256:{digest}\n")
    run(*UV, "venv", "--python", sys.executable, folder / "env")
    run(
        *UV, "pip", "install", "--python", folder / "env" / "bin" / "python",
        "--require-hashes", "--constraint", ROOT / "requirements-dev.lock", "--requirement", requirements,
    )  # fmt: skip
    return folder / "env" / "bin"


def test_the_wheel_holds_only_the_package_and_all_of_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if ".dist-info/" not in name}
    tracked = run("git", "ls-files", "--cached", "app/stormfold").split()
    assert names == {name.removeprefix("app/") for name in tracked if (ROOT / name).exists()}
    assert {Path(name).suffix for name in names} >= {".py", ".lua", ".yaml", ".html", ".css", ".js"}


def test_the_wheel_carries_the_metadata_of_the_project(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        metadata = opened.read(f"stormfold-{__version__}.dist-info/METADATA").decode()
    for field in ("Author", "Classifier", "License-Expression", "Project-URL", "Requires-Python", "Summary"):
        assert re.search(rf"^{field}: .", metadata, re.MULTILINE), field
    assert f"\nVersion: {__version__}\n" in metadata


def test_the_installed_package_prints_its_version(environment: Path, tmp_path: Path) -> None:
    expected = f"stormfold {__version__}\n"
    assert run(environment / "python", "-m", "stormfold", "--version", cwd=tmp_path) == expected
    assert run(environment / "stormfold", "--version", cwd=tmp_path) == expected


def test_the_demo_runs_from_the_wheel_in_an_empty_environment(environment: Path, tmp_path: Path) -> None:
    printed = run(environment / "stormfold", "demo", "--plain", cwd=tmp_path)
    assert "Counted exactly once" in printed
    assert list((tmp_path / "stormfold-demo" / "storms").glob("*.yaml"))
