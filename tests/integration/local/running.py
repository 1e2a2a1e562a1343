"""Runs the `stormfold` command in a folder of its own, with or without a terminal, and interrupts it."""

import fcntl
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from stormfold.local.process import HOST, port_is_free
from stormfold.settings import variable

COMMAND = (sys.executable, "-c", "from stormfold.cli import main; main()")
START_SECONDS = 300.0
"""The first start on a machine downloads Kafka."""
STOP_SECONDS = 20.0
COLUMNS, ROWS = 100, 24
"""Size of the terminal."""


class Running:
    """A command in the background, killed at the end of the block. Its output is in `printed`."""

    def __init__(self, folder: Path, *words: str, terminal: int | None = None) -> None:
        self.folder = folder
        self.printed = ""
        if "up" in words:
            _take_default_ports()
        self._terminal = terminal
        self._process = subprocess.Popen(
            [*COMMAND, *words],
            cwd=folder,
            env=environment(folder) | {"TERM": "xterm-256color", "COLORTERM": "truecolor"},
            stdin=subprocess.DEVNULL if terminal is None else terminal,
            stdout=subprocess.PIPE if terminal is None else terminal,
            stderr=subprocess.STDOUT if terminal is None else terminal,
            # A Ctrl-C on a terminal reaches the whole group; this one is not the tests' own.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        if terminal is None:
            self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.printed += line.decode()

    def wait_for(self, text: str) -> None:
        """Waits until the command has printed the text; fails if it ends before."""
        deadline = time.monotonic() + START_SECONDS
        while text not in self.printed:
            assert self._process.poll() is None and time.monotonic() < deadline, f"no {text!r} in:\n{self.printed}"
            time.sleep(0.05)

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Sends the signal to the process group, as a terminal does."""
        os.killpg(self._process.pid, number)

    def wait(self, seconds: float = START_SECONDS) -> int:
        """The exit code."""
        code = self._process.wait(seconds)
        if self._terminal is None:
            self._reader.join(STOP_SECONDS)
        return code

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if kind is not None:
            print(self.printed)


_ports: list[TextIO] = []
"""The lock, once this process has it."""


def _take_default_ports() -> None:
    """Waits until no other process of the test run uses the default ports of `up`: two would find them free at once."""
    if not _ports:
        lock = (Path(tempfile.gettempdir()) / f"stormfold-tests-up-{os.getuid()}.lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        _ports.append(lock)


@contextmanager
def default_port_in_use(port: int) -> Iterator[None]:
    """Something listens on this default port of `up`: we do, or another program of this machine already does."""
    _take_default_ports()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            taken.bind((HOST, port))
            taken.listen()
        assert not port_is_free(port)
        yield


def release_default_ports() -> None:
    """Lets other processes of the test run start `up`."""
    while _ports:
        _ports.pop().close()


def on_terminal(folder: Path, *words: str) -> str:
    """The whole output of a command on a terminal, with control characters; the command must succeed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    shown = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(ours, 65_536):
                shown.extend(chunk)
        except OSError:
            # Linux reports the closed other end this way.
            return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with Running(folder, *words, terminal=theirs) as command:
        os.close(theirs)
        assert command.wait() == 0, shown.decode()
    reader.join(STOP_SECONDS)
    os.close(ours)
    return shown.decode()


def environment(folder: Path) -> dict[str, str]:
    """An environment with the data below the folder, and without variables about the terminal of the tests."""
    others = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    return others | {variable("data_dir"): str(folder / "data")}


def servers(folder: Path) -> Sequence[int]:
    """Process ids of servers whose working directory is in the data folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            home = (process / "cwd").readlink()
        except OSError:
            continue
        if home.is_relative_to(folder / "data"):
            found.append(int(process.name))
    return found


def pids(folder: Path) -> dict[str, int]:
    """Process ids of the servers by name."""
    return {(Path("/proc") / str(pid) / "cwd").readlink().name: pid for pid in servers(folder)}
