"""Programs that tests need, built from their Go modules once and kept in the user's cache by version."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")


class CannotBuild(Exception):
    """A tool that building needs is missing on this machine."""


def build(program: Path, package: str, *options: str, module: Path | None = None) -> Path:
    """Installs a package as `program` unless it exists; returns the path. Raises `CannotBuild`.

    The package has a version, or is in the go.mod of the folder `module`. It is built in another folder and then
    moved, so that `program` is complete or missing.
    """
    program.parent.mkdir(parents=True, exist_ok=True)
    with (program.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.exists():
            return program
        for tool in ("go", "cc"):
            if shutil.which(tool) is None:
                raise CannotBuild(f"{tool} is needed to build {program.name}")
        folder = program.parent / "new"
        folder.mkdir(exist_ok=True)
        log = program.parent / "build.log"
        name = f"{program.name} {program.parent.name}"
        started = time.monotonic()
        with log.open("w") as output:
            process = subprocess.Popen(
                # Running tests have priority.
                ["nice", "go", "install", "-trimpath", "-ldflags=-s -w", *options, package],
                cwd=module,
                # Some programs contain C.
                env=os.environ | {"GOBIN": str(folder), "CGO_ENABLED": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                while process.poll() is None:
                    seconds = time.monotonic() - started
                    print(f"building {name}, once, a few minutes: {seconds:.0f} s", file=sys.stderr, flush=True)
                    try:
                        process.wait(timeout=20)
                    except subprocess.TimeoutExpired:
                        continue
            finally:
                process.kill()
                process.wait()
        if process.returncode != 0:
            raise RuntimeError(f"building {name} failed:\n{log.read_text()[-4000:]}")
        (folder / program.name).replace(program)
        folder.rmdir()
        return program


def built(config: pytest.Config, programs: Callable[[], T]) -> T:
    """Calls `programs` with progress on the terminal. Without Go the test is skipped; in CI it fails."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        try:
            return programs()
        except CannotBuild as error:
            if os.environ.get("CI"):
                pytest.fail(str(error))
            pytest.skip(str(error))
