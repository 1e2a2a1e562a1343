"""Servers as children of this process: data folder, port, log, start and stop. They never outlive this process.

Everything here blocks; in an event loop, call it through `asyncio.to_thread`.
"""

import atexit
import ctypes
import fcntl
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from stormfold.errors import ActionRequired
from stormfold.settings import home_folder

HOST = "127.0.0.1"
PORTS = range(20_000, 32_768)
"""Below the ephemeral ports: otherwise a client that retries a stopped server could be assigned that server's port,
connect to itself, and keep the server from starting again."""
START_SECONDS = 90.0
"""Longest time until a server is ready: enough for a slow machine under load. A server that exits fails at once."""
STOP_SECONDS = 20.0
"""A server that has not stopped by then is killed; both recover from that."""
LOCALE = {"LC_ALL": "C.UTF-8"}
"""Environment of servers: Java finds no file in a folder whose name the locale cannot express, as with LC_ALL=C."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_used_ports: set[int] = set()


def cache_dir() -> Path:
    """The folder of downloads, kept between runs."""
    return home_folder("XDG_CACHE_HOME", ".cache")


def port_is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Returns a free port, a different one at each call: the caller may start listening later."""
    port = next(port for port in random.sample(PORTS, len(PORTS)) if port not in _used_ports and port_is_free(port))
    _used_ports.add(port)
    return port


@contextmanager
def usable(folder: Path, hint: str = "choose another folder with --data or STORMFOLD_DATA_DIR") -> Iterator[None]:
    """Errors of the file system in the block become `ActionRequired`; `folder` is where they happen."""
    try:
        yield
    except OSError as error:
        if isinstance(error, PermissionError):
            owned = shlex.quote(str(folder))
            hint = f"if it belongs to another user, as after sudo: sudo chown -R $(id -u) {owned}; or {hint}"
        raise ActionRequired(f"{error.filename or folder}: {error.strerror or error}", hint) from error


def lock_file(path: Path) -> IO[bytes] | None:
    """Opens the file and locks it until it is closed; None if it is locked already. Raises `OSError`."""
    lock = path.open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


class ServerProcess(ABC):
    """A server with all its data in one folder, which it locks.

    Without `port` it reuses the port it last had in this folder if that is free, otherwise it takes any free port.
    """

    name: str
    ready: bytes
    """Text in its log that means that it serves."""

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.log_path = self.data_dir / f"{self.name}.log"
        self.port = port or 0
        """The port on 127.0.0.1, which stays the same from the first start on; 0 before if it was not given."""
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    @abstractmethod
    def prepare(self) -> Sequence[str]:
        """Writes the files that the server needs into its folder; returns its command line."""

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_reason(self) -> str:
        """How the process has ended: its exit code or the signal."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return "it is running" if self._process else "it was stopped"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def check_port(self) -> None:
        """Raises `ActionRequired` if the port of this server is known and in use."""
        if self.port and not port_is_free(self.port):
            raise ActionRequired(
                f"port {self.port} is in use, so {self.name.capitalize()} cannot start",
                f"stop the program that listens there, or use --{self.name}-port",
            )

    def start(self) -> None:
        """Starts the server unless it runs, and waits until it is ready.

        Raises `ActionRequired` if the folder or the port is in use, or, with the end of its log, if it does not start.
        """
        if self.running:
            return
        with usable(self.data_dir):
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self._lock = lock_file(self.data_dir / "lock")
        if self._lock is None:
            raise ActionRequired(
                f"{self.data_dir} is in use by another {self.name}", "stop the other one, or choose another data folder"
            )
        try:
            with usable(self.data_dir):
                self._choose_port()
                command = self.prepare()
                begin = self.log_path.stat().st_size if self.log_path.exists() else 0
                with self.log_path.open("ab") as log:
                    self._process = spawn(command, log, self.data_dir, os.environ | LOCALE)
            atexit.register(self.stop)
            self._wait_until_ready(begin)
        except BaseException:
            self.kill()
            raise

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stops the server with SIGTERM, or SIGKILL if it does not stop in time."""
        stop_all([self], seconds)

    def kill(self) -> None:
        """Kills the server, which writes nothing more."""
        stop_all([self], 0.0)

    def restart(self) -> None:
        """Stops and starts the server, with the same data and port."""
        self.stop()
        self.start()

    def send_signal(self, sign: signal.Signals) -> None:
        """Sends a signal to the process, if it runs."""
        if self._process is not None:
            self._process.send_signal(sign)

    def release(self, seconds: float) -> bool:
        """Waits until the process has ended and unlocks its folder; False if it has not ended after `seconds`."""
        if self._process is not None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                return False
        atexit.unregister(self.stop)
        self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        return True

    def _choose_port(self) -> None:
        memory = self.data_dir / "port"
        if not self.port:
            before = memory.read_text() if memory.exists() else ""
            self.port = int(before) if before.isdigit() and port_is_free(int(before)) else free_port()
        self.check_port()
        memory.write_text(str(self.port))

    def _wait_until_ready(self, begin: int) -> None:
        """Waits for `ready` in the log from byte `begin` on."""
        until = time.monotonic() + START_SECONDS
        while True:
            running = self.running
            written = self.log_path.read_bytes()[begin:]
            if running and self.ready in written:
                return
            if not running or time.monotonic() > until:
                reason = f"is not ready after {START_SECONDS:.0f} s" if running else "did not start"
                # Without the stack frames of Java.
                lines = [line for line in written.decode(errors="replace").splitlines() if not line.startswith("\tat ")]
                end = "\n".join(lines[-12:])
                raise ActionRequired(f"{self.name} {reason}, its log {self.log_path} ends:\n{end}")
            time.sleep(0.05)


def stop_all(
    servers: Sequence[ServerProcess], seconds: float, kill_seconds: float = STOP_SECONDS
) -> list[ServerProcess]:
    """Stops servers at the same time, with SIGTERM; returns those that had to be killed after `seconds`, if not 0.

    Waits at most `kill_seconds` for the end of each killed one: a process that waits for its disk ends later.
    """
    until = time.monotonic() + seconds
    if seconds:
        for server in servers:
            server.send_signal(signal.SIGTERM)
    left = [server for server in servers if not (seconds and server.release(max(0.0, until - time.monotonic())))]
    for server in left:
        server.send_signal(signal.SIGKILL)
    for server in left:
        server.release(kill_seconds)
    return left if seconds else []


def spawn(
    command: Sequence[str], log: IO[bytes], folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a child that gets no Ctrl-C from the terminal and, on Linux, dies even if this process is killed.

    Without `environment` it inherits ours. Raises `ActionRequired` if the command cannot be started.
    """
    started: Future[subprocess.Popen[bytes]] = Future()

    def run() -> None:
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=folder,
                env=environment, start_new_session=True, preexec_fn=_die_with_parent if _libc else None,
            )  # fmt: skip
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(child)
        child.wait()

    # Linux signals the child when the thread that started it ends, so that thread waits for the child.
    threading.Thread(target=run, name=f"child {command[0]}", daemon=True).start()
    try:
        return started.result()
    except (OSError, subprocess.SubprocessError) as error:
        raise ActionRequired(f"cannot run {command[0]}: {error}") from error


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # type: ignore[union-attr]
