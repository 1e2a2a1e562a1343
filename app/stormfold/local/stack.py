"""Kafka and Redis below one folder and a worker in this process, for `demo` and `up`. Everything that is started is
stopped, also after Ctrl-C."""

import asyncio
import shlex
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from stormfold import logs
from stormfold.config import Config
from stormfold.decoding import Malformed
from stormfold.errors import ActionRequired
from stormfold.incident import Incident
from stormfold.incident_manifest import decode_manifest as decode_incident
from stormfold.kafka.client import open_admin
from stormfold.kafka.reader import open_reader
from stormfold.kafka.topics import create, topics
from stormfold.local.ending import ENDING, WORKER_SECONDS, on_first_signal
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.process import ServerProcess, lock_file, port_is_free, usable
from stormfold.local.redis import EmbeddedRedis
from stormfold.manifest import decode_manifest
from stormfold.settings import Settings
from stormfold.storm import Aggregate
from stormfold.worker import Worker

T = TypeVar("T")

PARTITIONS = 4
"""Partitions of each topic: enough to share the work, and quick to create."""
STOP_SECONDS = 8.0
"""Longest wait for a worker to stop if no signal came. What it has not finished is repeated at the next start."""
WATCH_INTERVAL = 0.5
"""Seconds between two looks at the servers."""
MARKER = ".stormfold"
"""File that marks a folder as stormfold's. It is locked while the folder is in use."""
_INHERITED = ("data_dir", "log_level")
"""Settings that the local stack takes from the environment; all others may describe other servers."""


class Stack:
    """Kafka in `folder/kafka` and Redis in `folder/redis`. `report` gets a line for each step of the start."""

    def __init__(
        self, folder: Path, report: Callable[[str], None], kafka_port: int | None = None, redis_port: int | None = None
    ) -> None:
        self._folder = folder
        self.kafka = EmbeddedKafka(folder / "kafka", port=kafka_port, on_progress=report)
        self.redis = EmbeddedRedis(folder / "redis", port=redis_port)
        self._servers: tuple[ServerProcess, ...] = (self.redis, self.kafka)
        self._report = report

    @contextmanager
    def running(self, *, graceful: bool = True) -> Iterator[None]:
        """Runs both servers; blocks while they start and stop. Not `graceful`: kills them, for data nobody needs.

        Raises `ActionRequired` if one of them does not start.
        """
        for server in self._servers:
            server.check_port()
        with ENDING.stopping(self._servers, self._report, graceful):
            for server in self._servers:
                self._report(f"Starting {server.name.capitalize()}")
                server.start()
            yield

    async def watched(self, main: Coroutine[Any, Any, T]) -> T:
        """Awaits `main` while the servers run. Raises what `watch` raises."""
        async with run_in_background(self.watch()):
            return await main

    async def watch(self) -> None:
        """Raises `ActionRequired` when a server has ended. The end of the process begins with that."""
        while True:
            if ended := [server for server in self._servers if not server.running]:
                error = ActionRequired(
                    "; ".join(f"{server.name.capitalize()} has ended: {server.exit_reason}" for server in ended),
                    f"read {' and '.join(str(server.log_path) for server in ended)}; `stormfold up --data"
                    f" {shlex.quote(str(self._folder))}` continues with the data that are kept",
                )
                ENDING.begin(error)
                raise error
            await asyncio.sleep(WATCH_INTERVAL)

    def settings(self, **values: Any) -> Settings:
        """Settings for these servers: defaults, except `values` and what does not depend on where servers are."""
        defaults = {name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()}
        environment = Settings()
        inherited = {name: getattr(environment, name) for name in _INHERITED}
        servers = {"kafka_bootstrap_servers": self.kafka.bootstrap, "redis_url": self.redis.url}
        return Settings(**defaults | inherited | servers | values)


@contextmanager
def lock_directory(folder: Path, hint: str) -> Iterator[None]:
    """Creates the folder if it is missing, marks it as stormfold's, and locks it.

    Raises `ActionRequired` if another stormfold uses it, if it has other content, or if it cannot be created.
    """
    marker = folder / MARKER
    with usable(folder, hint):
        if not marker.exists() and folder.exists() and any(folder.iterdir()):
            raise ActionRequired(f"{folder} has content that is not stormfold's", hint)
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_file(marker)
    if lock is None:
        raise ActionRequired(f"{folder} is in use by another stormfold", f"stop that one, or {hint}")
    with lock:
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Raises `KeyboardInterrupt` at the first of `SIGNALS`, and ignores later ones."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with on_first_signal(interrupt):
        yield


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine in an event loop; the first of `SIGNALS` cancels it and raises `KeyboardInterrupt` here."""
    interrupted = False
    task: asyncio.Task[T] | None = None

    def cancel() -> None:
        # Nothing is raised here: inside of the event loop, that could lose a task.
        nonlocal interrupted
        interrupted = True
        if task is not None:
            task.cancel()
            # Wakes the event loop.
            task.get_loop().call_soon_threadsafe(lambda: None)

    async def cancellable() -> T:
        nonlocal task
        task = asyncio.current_task()
        if interrupted and task is not None:
            task.cancel()
        return await main

    try:
        with on_first_signal(cancel), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(cancellable())
    except BaseException:
        if interrupted:
            raise KeyboardInterrupt from None
        raise


@asynccontextmanager
async def running_worker(settings: Settings, config: Config) -> AsyncIterator[Worker]:
    """Runs a worker in this process, and creates missing topics before. Raises `ActionRequired` or `Retry`."""
    async with open_admin(settings) as admin:
        await create(admin, topics(settings, PARTITIONS))
    worker = Worker(settings, config)
    try:
        await worker.start()
        yield worker
    finally:
        await stop_within(worker.stop(), WORKER_SECONDS, STOP_SECONDS)


async def stop_within(stop: Coroutine[Any, Any, None], limit: float, otherwise: float) -> None:
    """Waits until `stop` is done, at most until `limit` seconds after the end of the process began.

    If it has not begun, waits for `otherwise` seconds.
    """
    stopping = asyncio.ensure_future(stop)
    # Without waiting for a cancellation, which clients of a server that does not answer can delay.
    await asyncio.wait({stopping}, timeout=ENDING.seconds_until(limit, otherwise))
    stopping.cancel()


@asynccontextmanager
async def run_in_background(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs all `works` until the block ends. If one fails, the block is cancelled, and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
            yield
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def follow_aggregates(settings: Settings, handle: Callable[[Aggregate], None], *, past: bool) -> None:
    """Calls `handle` with each aggregate that is published, until cancelled; with `past`, first with earlier ones.

    Raises `ActionRequired` or `Retry`.
    """
    await _follow(settings, settings.storms_topic, decode_manifest, handle, past)


async def follow_incidents(settings: Settings, handle: Callable[[Incident], None], *, past: bool) -> None:
    """Does the same with incidents."""
    await _follow(settings, settings.incidents_topic, decode_incident, handle, past)


async def _follow(
    settings: Settings, topic: str, decode: Callable[[bytes | None], T], handle: Callable[[T], None], past: bool
) -> None:
    async with open_reader(settings) as reader:
        async for record in reader.read(topic, None if past else 0, follow=True):
            # Others may write to the topic, too.
            with suppress(Malformed):
                handle(decode(record.value))


def log_to(path: Path, level: str) -> None:
    """Sends the whole log to a file, one JSON object on each line."""
    with usable(path):
        logs.configure("json", level, stream=path.open("a", encoding="utf-8"))


def free_or_none(port: int) -> int | None:
    """The port if it is free, otherwise None."""
    return port if port_is_free(port) else None
