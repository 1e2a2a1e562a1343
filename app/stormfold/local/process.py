"""A server as a child of this process: its folder, its log, its life. It never outlives us.

Everything here blocks; in an event loop call it through `asyncio.to_thread`.
"""

import atexit
import ctypes
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from stormfold.errors import ActionRequired

HOST = "127.0.0.1"
PORTS = range(20_000, 32_768)
"""Below the range outgoing connections get their ports from: a client that keeps trying a server that is down could
otherwise be given that very port, connect to itself, and keep the server from coming back."""
START_SECONDS = 90.0
"""A slow machine under load takes long; a server that has died is noticed at once."""
STOP_SECONDS = 20.0
"""After this a server that was asked to stop is killed: both recover from that."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def cache_dir() -> Path:
    """Where downloads are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stormfold"


def port_is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


_given: set[int] = set()


def free_port() -> int:
    """A port nobody listens on, another one each time: who got one before may not listen on it yet."""
    port = next(port for port in random.sample(PORTS, len(PORTS)) if port not in _given and port_is_free(port))
    _given.add(port)
    return port


class ServerProcess(ABC):
    """One server with all its data in one folder, which only one server can use at a time.

    Without a port it takes the one it had in this folder before if that is free, else any free one.
    """

    name: str
    ready: bytes
    """What it writes to its log when it serves."""

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.log_path = self.data_dir / f"{self.name}.log"
        self._wanted_port = port
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    @abstractmethod
    def prepare(self) -> Sequence[str]:
        """Writes what the server needs into its folder; returns its command line."""

    @property
    def port(self) -> int:
        """The port on 127.0.0.1; fixed from the first start on."""
        if self._port is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._port

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the server and waits until it serves; nothing if it runs.

        Raises `ActionRequired` with the end of its log if it dies, and if the folder or the port is in use.
        """
        if self.running:
            return
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._take_folder()
        try:
            self._port = self._choose_port()
            command = self.prepare()
            begin = self.log_path.stat().st_size if self.log_path.exists() else 0
            with self.log_path.open("ab") as log:
                self._process = spawn(command, log, self.data_dir)
            atexit.register(self.stop)
            self._wait(begin)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Asks the server to stop and waits for it; kills it if it does not."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: no goodbye, no flush."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stops and starts it: same data, same port."""
        self.stop()
        self.start()

    def log_tail(self, begin: int = 0, lines: int = 12) -> str:
        """The last lines of the log from byte `begin` on, without stack frames."""
        with self.log_path.open("rb") as log:
            log.seek(begin)
            said = log.read().decode(errors="replace").splitlines()
        return "\n".join([line for line in said if not line.startswith("\tat ")][-lines:])

    def _end(self, sign: signal.Signals) -> None:
        atexit.unregister(self.stop)
        if self._process is not None:
            self._process.send_signal(sign)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_folder(self) -> None:
        lock = (self.data_dir / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ActionRequired(
                f"{self.data_dir} is in use by another {self.name}", "stop the other one, or choose another data folder"
            ) from None
        self._lock = lock

    def _choose_port(self) -> int:
        memory = self.data_dir / "port"
        before = memory.read_text() if memory.exists() else ""
        port = self._wanted_port or self._port
        if port is None:
            port = int(before) if before.isdigit() and port_is_free(int(before)) else free_port()
        elif not port_is_free(port):
            raise ActionRequired(
                f"port {port} for {self.name} is in use", "stop what listens there, or choose another port"
            )
        memory.write_text(str(port))
        return port

    def _wait(self, begin: int) -> None:
        until = time.monotonic() + START_SECONDS
        while True:
            if not self.running:
                raise ActionRequired(
                    f"{self.name} did not start, its log {self.log_path} ends:\n{self.log_tail(begin)}"
                )
            with self.log_path.open("rb") as log:
                log.seek(begin)
                if self.ready in log.read():
                    return
            if time.monotonic() > until:
                raise ActionRequired(f"{self.name} is not ready after {START_SECONDS:.0f} s:\n{self.log_tail(begin)}")
            time.sleep(0.05)


def spawn(
    command: Sequence[str], log: IO[bytes], folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a child that gets no Ctrl-C from the terminal and, on Linux, dies with us even if we are killed.

    Without an `environment` it has ours. Raises `ActionRequired` if it can't be started.

    That signal comes when the *thread* that started the child ends, so a thread of its own waits as long as it lives.
    """
    started: list[subprocess.Popen[bytes] | BaseException] = []
    ready = threading.Event()

    def run() -> None:
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=folder,
                env=environment, start_new_session=True, preexec_fn=_die_with_parent if _libc else None,
            )  # fmt: skip
        except BaseException as error:
            started.append(error)
            ready.set()
            return
        started.append(child)
        ready.set()
        child.wait()

    threading.Thread(target=run, name=f"child {command[0]}", daemon=True).start()
    ready.wait()
    if isinstance(started[0], BaseException):
        raise ActionRequired(f"cannot run {command[0]}: {started[0]}") from started[0]
    return started[0]


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # type: ignore[union-attr]
