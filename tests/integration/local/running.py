"""The `stormfold` command as people run it: in a folder of its own, on a terminal or not, interrupted or not."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from stormfold.settings import variable

COMMAND = (sys.executable, "-c", "from stormfold.cli import main; main()")
START_SECONDS = 300.0
"""The first start on a machine downloads Kafka."""
STOP_SECONDS = 20.0
COLUMNS, ROWS = 100, 24
"""Of the terminal that commands are run on."""


class Running:
    """A command in the background; what it prints is read as it comes. Ended for good when the block ends."""

    def __init__(self, folder: Path, *words: str, terminal: int | None = None) -> None:
        self.folder = folder
        self.printed = ""
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
        """What Ctrl-C does."""
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


def on_terminal(folder: Path, *words: str) -> str:
    """All that a command writes to a terminal until it ends, control characters included; it has to end well."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    shown = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(ours, 65_536):
                shown.extend(chunk)
        except OSError:
            # Linux' way of saying that the other end is closed.
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
    """The environment of a user whose data are below the folder, without what tells programs of another terminal."""
    others = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    return others | {variable("data_dir"): str(folder / "data")}


def servers(folder: Path) -> Sequence[int]:
    """Process ids of servers that keep their data below the folder: they live in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            home = (process / "cwd").readlink()
        except OSError:
            continue
        if home.is_relative_to(folder / "data"):
            found.append(int(process.name))
    return found
