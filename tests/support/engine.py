"""A Docker engine of the test's own, and Docker Compose, built from its Go module once.

The engine has its own namespaces for mounts, processes and the network: it changes nothing on this machine, its ports
are in use by nobody else, and everything that it runs ends with it. It has no way out to other networks, so images are
loaded, not pulled. Needs root and Debian's `docker.io`.
"""

import ctypes
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from stormfold.local.process import cache_dir
from tests.support.gobuild import CannotBuild, build

T = TypeVar("T")

COMPOSE = "v2.40.3"
START_SECONDS = 60
STOP_SECONDS = 10.0
"""Longest wait for killed processes to be gone."""
NAMESPACES = "unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"
CLONE_NEWNET = 0x4000_0000
COMMAND_SECONDS = 300
"""Longest that a command of the engine may take on a busy machine."""


def compose_program() -> Path:
    """Returns Docker Compose, built first if it is missing. Raises `CannotBuild`."""
    folder = cache_dir() / "docker-compose" / COMPOSE
    if (folder / "cmd").exists():
        return folder / "cmd"
    if shutil.which("go") is None:
        raise CannotBuild("go is needed to build Docker Compose")
    module = f"github.com/docker/compose/v2@{COMPOSE}"
    found = subprocess.run(["go", "mod", "download", "-json", module], stdout=subprocess.PIPE, check=True).stdout
    # The module excludes versions of others, which `go install MODULE@VERSION` refuses.
    return build(folder / "cmd", "./cmd", module=Path(json.loads(found)["Dir"]))


class Engine:
    """A running engine with its data below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "dockerd.log"
        self._cgroup = f"stormfold-{os.getpid()}"
        self._socket = folder / "docker.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._network: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers. Fails the test with its log otherwise."""
        daemon = [
            *("docker-init", "-s", "--", "dockerd", "--host", f"unix://{self._socket}"),
            *("--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec")),
            *("--pidfile", str(self.folder / "pid"), "--cgroup-parent", f"/{self._cgroup}"),
        ]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*NAMESPACES, "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *daemon],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_SECONDS
        while self._run("docker", "version").returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the engine does not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Kills the engine and everything that it runs."""
        if self._network is not None:
            self._network.shutdown(cancel_futures=True)
        if self._process is not None:
            # The first process of the namespace: all others end with it.
            with suppress(ProcessLookupError, FileNotFoundError, IndexError):
                os.kill(self.pid, 9)
            self._process.kill()
            self._process.wait()
        # A control group can be removed once its killed processes are gone.
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            groups = sorted(Path("/sys/fs/cgroup").glob(f"*/{self._cgroup}/**/"), reverse=True)
            for path in groups:
                with suppress(OSError):
                    path.rmdir()
            if not groups:
                break
            time.sleep(0.1)

    def inside(self, function: Callable[[], T]) -> T:
        """Calls a function in a thread whose network is that of the engine: 127.0.0.1 has the published ports."""
        if self._network is None:
            self._network = ThreadPoolExecutor(8, initializer=self._enter)
        return self._network.submit(function).result()

    def _enter(self) -> None:
        # os.setns exists from Python 3.12.
        with Path(f"/proc/{self.pid}/ns/net").open() as namespace:
            assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) == 0, ctypes.get_errno()

    def process(self, pid: int) -> Path:
        """Returns the folder in /proc of a process that the engine runs, by the engine's number of it."""
        return Path("/proc", str(self.pid), "root", "proc", str(pid))

    @property
    def pid(self) -> int:
        """The first process in the engine's namespaces."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0])

    def docker(self, *words: str | Path) -> str:
        """Runs a command of Docker; returns its output."""
        return self.check("docker", *words)

    def compose(self, *words: str | Path, seconds: float = COMMAND_SECONDS) -> str:
        """Runs a command of Docker Compose; returns its output."""
        return self.check(compose_program(), *words, seconds=seconds)

    def inspect(self, container: str) -> dict[str, Any]:
        """Returns all that the engine knows of a container."""
        found: dict[str, Any] = json.loads(self.docker("inspect", container))[0]
        return found

    def signal(self, container: str, name: str) -> None:
        """Sends a signal to the program of a container, not to the init process above it, and without the engine."""
        first = self.process(self.inspect(container)["State"]["Pid"])
        children = (first / "task" / first.name / "children").read_text().split()
        self.check("nsenter", "--pid", "--mount", "--target", str(self.pid), "sh", "-c", f"kill -{name} {children[0]}")

    def load(self, name: str, root: Path, instructions: Sequence[str]) -> None:
        """Makes an image of a file system and instructions of a Dockerfile, and deletes the file system."""
        changes = [
            word for line in ("ENV PATH=/usr/local/bin:/usr/bin:/bin", *instructions) for word in ("--change", line)
        ]
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
            done = self._run("docker", "import", *changes, "-", name, stdin=tar.stdout)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(root)

    def check(self, *words: str | Path, seconds: float = COMMAND_SECONDS) -> str:
        """Runs a program as a client of the engine; returns its output, and fails the test with it otherwise."""
        done = self._run(*words, seconds=seconds)
        assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout

    def _run(
        self, *words: str | Path, seconds: float = COMMAND_SECONDS, stdin: Any = subprocess.DEVNULL
    ) -> subprocess.CompletedProcess[str]:
        environment: Mapping[str, str] = {
            **os.environ, "DOCKER_HOST": f"unix://{self._socket}", "DOCKER_CONFIG": str(self.folder),
        }  # fmt: skip
        return subprocess.run(
            words, env=environment, stdin=stdin, capture_output=True, text=True, timeout=seconds, check=False
        )


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """Runs an engine. Skips the test where the programs or rights are missing, which CI does not accept."""
    missing = [name for name in ("dockerd", "docker", "docker-init", "ip", "nsenter") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root, and these programs of docker.io and iproute2: {', '.join(missing) or 'all found'}")
    made = Engine(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)
