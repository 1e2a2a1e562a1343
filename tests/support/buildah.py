"""Images that Buildah builds on a substitute for Python's image, without a registry, and runs without an engine.

The substitute is this machine's Python with the programs and libraries of Debian's slim image that a build may use. It
needs namespaces, and root or a user with subordinate ids; where these are missing, tests are skipped.
"""

import ast
import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from configparser import RawConfigParser
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support import container
from tests.support.servers import until

PROGRAM = shutil.which("buildah")
needed = pytest.mark.skipif(PROGRAM is None, reason="needs Buildah: apt-get install buildah")
"""Marks tests that need Buildah."""

AS_ROOT = () if os.geteuid() == 0 else (PROGRAM or "buildah", "unshare")
"""The prefix of commands that must be root, at least in a user namespace."""
NEW = "unshare", "--mount", "--pid", "--net", "--fork", "--kill-child"
"""The prefix of a command that starts a container."""
JOIN = "nsenter", "--mount", "--pid", "--net", *(("--user",) if AS_ROOT else ()), "--root", "--wd"
"""The prefix of a command in a running container."""
FOLDERS = (
    *("usr/bin", "usr/lib", "usr/local/bin", "usr/local/lib"),
    *("dev", "etc", "proc", "root", "run", "sys", "tmp"),
)
PROGRAMS = "sh", "awk", "install"
"""Programs of a slim image that RUN lines call besides Python."""
LIBRARIES = "libstdc++.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1"
"""Libraries of a slim image that wheels may load besides Python's own."""
PIP_FILES = "cert", "client-cert", "find-links"
"""Settings of pip that name files or folders of this machine."""


def run(*words: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Runs a program; returns its output, and fails the test with it if the program fails."""
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def libraries(binaries: Iterable[Path]) -> Iterator[Path]:
    """Yields all libraries that the binaries load, including the loader."""
    loaded = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    yield from {Path(name) for name in re.findall(r"^\t(?:.* => )?(/.*) \(", loaded, re.MULTILINE)}
    known = run(shutil.which("ldconfig") or "/sbin/ldconfig", "-p")
    for name in LIBRARIES:
        found = re.search(rf"^\t{re.escape(name)} .* => (.*)$", known, re.MULTILINE)
        assert found, f"{name} is not on this machine"
        yield Path(found[1])


def substitute(root: Path) -> None:
    """Creates the file system of a base image, whose Python has no pip yet."""
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name in ("bin", "lib"):
        (root / name).symlink_to(f"usr/{name}")
    stdlib = Path(sysconfig.get_path("stdlib"))
    version = stdlib.name
    shutil.copytree(
        stdlib,
        root / "usr/local/lib" / version,
        ignore=shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__", "test", "config-*"),
    )
    (root / "usr/local/lib" / version / "site-packages").mkdir()
    shutil.copy(Path(sys.executable).resolve(), root / "usr/local/bin" / version)
    for name in ("python", "python3"):
        (root / "usr/local/bin" / name).symlink_to(version)
    programs = [Path(found) for name in PROGRAMS if (found := shutil.which(name))]
    for program in programs:
        shutil.copy(program, root / "usr/bin" / program.name)
    modules = [path for path in stdlib.glob("lib-dynload/*.so") if not path.name.startswith("_tkinter")]
    for library in libraries([Path(sys.executable).resolve(), *programs, *modules]):
        # The loader must be at the path that programs name; it finds everything else in usr/lib.
        folder = root / library.parent.relative_to("/") if library.name.startswith("ld-") else root / "usr/lib"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, folder)


def pip_configuration(file: Path) -> list[str]:
    """Writes pip's settings of this machine, including variables; returns the files that they name."""
    settings = RawConfigParser()
    for line in run(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        # Variables come first, and have priority.
        section = "global" if section == ":env:" else section
        if not settings.has_section(section):
            settings.add_section(section)
        if not settings.has_option(section, key):
            settings.set(section, key, ast.literal_eval(value).replace("\n", "\n    "))
    file.touch(mode=0o600)
    with file.open("w") as written:
        settings.write(written)
    named = [settings.get(section, key, fallback="") for section in settings.sections() for key in PIP_FILES]
    words = {word for value in named for word in value.split()}
    return sorted(word for word in words if word.startswith("/") and Path(word).exists())


class Buildah:
    """Images and containers in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = ("--root", folder / "root", "--runroot", folder / "run", "--storage-driver", "vfs")

    def __call__(self, command: str, *words: str | Path) -> str:
        """Runs a command of Buildah."""
        return run(
            *AS_ROOT,
            PROGRAM or "buildah",
            *self.storage,
            command,
            *words,
            env=os.environ | {"TMPDIR": str(self.folder)},
        ).strip()

    def base(self, name: str) -> None:
        """Creates a substitute for an image of Python."""
        root = self.folder / "base"
        substitute(root)
        made = self("from", "scratch")
        self("copy", made, root, "/")
        shutil.rmtree(root)
        self("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", made)
        self("run", "--isolation", "chroot", made, "--", "python", "-m", "ensurepip", "--default-pip")
        self("commit", "--format", "docker", "--rm", made, name)

    def build(self, context: Path, name: str) -> None:
        """Builds the Dockerfile in `context` from local images. Its steps use this machine's settings of pip."""
        pip = self.folder / "pip.conf"
        mounts = [f"{file}:{file}:ro" for file in pip_configuration(pip)]
        self(
            *("bud", "--isolation", "chroot", "--format", "docker", "--pull-never", "--tag", name),
            *(word for mount in (f"{pip}:/etc/pip.conf:ro", *mounts) for word in ("--volume", mount)),
            context,
        )
        pip.unlink()

    def configuration(self, name: str) -> dict[str, Any]:
        """Returns the configuration of an image for an engine."""
        found: dict[str, Any] = json.loads(self("inspect", "--type", "image", name))["Docker"]["config"]
        return found

    def unpacked(self, name: str) -> Path:
        """Mounts an image; returns the path of its files."""
        return Path(self("mount", self("from", "--pull-never", name)))


@contextmanager
def buildah(folder: Path) -> Iterator[Buildah]:
    """Yields a Buildah, and deletes its folder afterwards. Skips the test if this machine permits no containers."""
    probe = [*AS_ROOT, *NEW, "mount", "-t", "tmpfs", "tmpfs", folder]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine permits no containers: {done.stderr.strip()}")
    try:
        yield Buildah(folder)
    finally:
        run(*AS_ROOT, "rm", "-rf", folder)


class Container:
    """An image's command as process 1 and the image's user, read-only except a small /tmp, without a network."""

    def __init__(self, root: Path, configuration: dict[str, Any], folder: Path) -> None:
        self.configuration = configuration
        self.environment = dict(line.split("=", 1) for line in configuration["Env"])
        self.user, self.group = map(int, configuration["User"].split(":"))
        self.log = folder / "container.log"
        self.started = folder / "container.pid"
        start = container.Start(
            command=[*configuration["Entrypoint"], *configuration["Cmd"]],
            environment=self.environment,
            folder=configuration["WorkingDir"],
            user=self.user,
            group=self.group,
            tmp="16m",
            started=str(self.started),
        )
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*AS_ROOT, *NEW, sys.executable, "-IS", container.__file__, root, json.dumps(start)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    async def pid(self) -> int:
        """Returns the process id outside the container."""
        await until(lambda: self.started.exists() and self.started.read_text(), what="a container starts")
        return int(self.started.read_text())

    async def status(self) -> str:
        """Returns the kernel's status of the process."""
        return await asyncio.to_thread(Path(f"/proc/{await self.pid()}/status").read_text)

    async def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the container, as `docker exec` does."""
        return await asyncio.to_thread(
            subprocess.run,
            [
                *(shutil.which(JOIN[0]) or JOIN[0], *JOIN[1:], "--target", str(await self.pid())),
                *("--setuid", str(self.user), "--setgid", str(self.group), *command),
            ],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    async def check(self) -> bool:
        """Returns whether the image's health check passes."""
        kind, *command = self.configuration["Healthcheck"]["Test"]
        assert kind == "CMD"
        return (await self.execute(*command)).returncode == 0

    def close(self) -> None:
        """Kills the process if it runs, and prints its log, which pytest shows if the test fails."""
        if self.process.poll() is None:
            # The kernel drops the effect of --kill-child when the user changes.
            if self.started.exists() and (pid := self.started.read_text()):
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            self.process.kill()
        self.process.wait()
        print(self.log.read_text())
