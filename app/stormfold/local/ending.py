"""The end of a command that runs servers: it is over within seconds, whatever the servers and their clients do."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from stormfold.errors import StormfoldError
from stormfold.local.process import STOP_SECONDS, ServerProcess, stop_all

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command after it has stopped what it started."""
WORKER_SECONDS = 4.0
"""From the beginning of the end, the worker has this long to stop."""
SERVER_SECONDS = 3.0
"""The servers have this long to stop; those that have not are killed, and recover at their next start."""
FORCE_SECONDS = 8.5
"""From the beginning until the process exits, even if a client hangs. Supervisors wait 10 s."""
KILL_SECONDS = 0.5
"""Longest wait for the end of a killed server."""


class Ending:
    """The end of this process. It begins with the first signal, or when a server has ended on its own."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._error: StormfoldError | None = None
        self._stop_servers: Callable[[], None] = lambda: None
        self._stopping = threading.Lock()

    def begin(self, error: StormfoldError | None = None) -> None:
        """Begins the end, unless it has begun. A process that has to be forced to exit prints the error that began it.

        Its exit code is then 1, otherwise 0.
        """
        if self._began is None:
            self._began, self._error = time.monotonic(), error
            threading.Thread(target=self._force, name="end", daemon=True).start()

    def seconds_until(self, limit: float, otherwise: float) -> float:
        """Seconds left until `limit` seconds after the beginning; `otherwise` if the end has not begun."""
        return otherwise if self._began is None else max(0.0, self._began + limit - time.monotonic())

    @contextmanager
    def stopping(
        self, servers: Sequence[ServerProcess], report: Callable[[str], None], graceful: bool
    ) -> Iterator[None]:
        """Stops or kills the servers after the block, or during it if it does not end in time."""

        def stop() -> None:
            with self._stopping:
                hurried = self._began is not None
                seconds = (SERVER_SECONDS if hurried else STOP_SECONDS) if graceful else 0.0
                for server in stop_all(servers, seconds, KILL_SECONDS if hurried else STOP_SECONDS):
                    report(f"{server.name.capitalize()} did not stop within {seconds:.0f} s and was killed")

        self._stop_servers = stop
        try:
            yield
        finally:
            ignore_signals()
            stop()

    def _force(self) -> None:
        time.sleep(self.seconds_until(WORKER_SECONDS + 1.0, 0.0))
        self._stop_servers()
        time.sleep(self.seconds_until(FORCE_SECONDS, 0.0))
        if self._error is not None:
            print(f"stormfold: {self._error}\n  -> {self._error.hint}", file=sys.stderr)
        print("The worker did not stop in time. Its unfinished work is repeated at the next start.", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0 if self._error is None else 1)


ENDING = Ending()


def ignore_signals() -> None:
    """Ignores further signals, so that nothing interrupts the clean-up."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def on_first_signal(handle: Callable[[], None]) -> Iterator[None]:
    """Calls `handle` at the first of `SIGNALS`, with which the end begins. Later ones are ignored."""

    def first(*_: object) -> None:
        ignore_signals()
        ENDING.begin()
        handle()

    before = [(number, signal.signal(number, first)) for number in SIGNALS]
    yield
    # Not after an error: then the command is already on its way out.
    for number, handler in before:
        signal.signal(number, handler)
