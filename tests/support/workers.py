"""Worker processes of a test."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from stormfold.local.process import spawn
from stormfold.settings import Settings, variable
from tests.support.servers import environment as variables

STOP_SECONDS = 10.0
"""A worker that is asked to stop ends within this time."""


@dataclass
class Workers:
    """Worker processes against the test's servers. All of them end with the test, however it ends."""

    settings: Settings
    folder: Path
    config: Path | None = None
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Starts one more worker; `environment` has further settings, without the prefix."""
        more = ({"config": str(self.config)} if self.config else {}) | environment
        environ = os.environ | variables(self.settings) | {variable(name): value for name, value in more.items()}
        command = [sys.executable, "-m", "stormfold", "worker"]
        with (self.folder / f"worker-{len(self.running)}.log").open("ab") as log:
            process = spawn(command, log, Path.cwd(), environ)
        self.running.append(process)
        return process

    def logs(self) -> str:
        """Returns the last 20 kB that each worker has printed."""
        return "\n".join(p.read_text(errors="replace")[-20_000:] for p in sorted(self.folder.glob("worker-*.log")))

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        for process in self.running:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.running:
            try:
                process.wait(12)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if kind is not None:
            print(self.logs())


async def stop(worker: subprocess.Popen[bytes], sign: signal.Signals = signal.SIGTERM) -> None:
    """Asks a worker to stop, and asserts that it exits with 0 within `STOP_SECONDS`."""
    asked = time.monotonic()
    worker.send_signal(sign)
    assert await asyncio.to_thread(worker.wait, 3 * STOP_SECONDS) == 0
    assert time.monotonic() - asked < STOP_SECONDS
