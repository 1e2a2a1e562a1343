"""Kafka and Redis below one folder and a worker in this process, for `demo` and `up`. Everything that is started is
stopped, also after Ctrl-C."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from stormfold import logs
from stormfold.config import Config
from stormfold.decoding import Malformed
from stormfold.errors import ActionRequired
from stormfold.kafka.client import open_admin
from stormfold.kafka.reader import open_reader
from stormfold.kafka.topics import create, topics
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.process import ServerProcess, lock_file, port_is_free
from stormfold.local.redis import EmbeddedRedis
from stormfold.manifest import decode_manifest
from stormfold.settings import Settings
from stormfold.storm import Aggregate
from stormfold.worker import Worker

T = TypeVar("T")

PARTITIONS = 4
"""Partitions of each topic: enough to share the work, and quick to create."""
STOP_SECONDS = 8.0
"""Longest wait for a worker to stop. What it has not finished by then is repeated at the next start."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command after it has stopped what it started."""
MARKER = ".stormfold"
"""File that marks a folder as stormfold's. It is locked while the folder is in use."""
_INHERITED = ("data_dir", "log_level")
"""Settings that the local stack takes from the environment; all others may describe other servers."""


class Stack:
    """Kafka in `folder/kafka` and Redis in `folder/redis`. `report` gets a line for each step of the start."""

    def __init__(
        self, folder: Path, report: Callable[[str], None], kafka_port: int | None = None, redis_port: int | None = None
    ) -> None:
        self.kafka = EmbeddedKafka(folder / "kafka", port=kafka_port, on_progress=report)
        self.redis = EmbeddedRedis(folder / "redis", port=redis_port)
        self._report = report

    @contextmanager
    def running(self, *, graceful: bool = True) -> Iterator[None]:
        """Runs both servers; blocks while they start and stop. Not `graceful`: kills them, for data nobody needs.

        Raises `ActionRequired` if one of them does not start.
        """
        with ExitStack() as stack:
            servers: tuple[ServerProcess, ...] = (self.redis, self.kafka)
            for server in servers:
                server.check_port()
            for server in servers:
                self._report(f"Starting {server.name.capitalize()}")
                server.start()
                stack.callback(server.stop if graceful else server.kill)
            # Runs before the servers are stopped, so that a Ctrl-C cannot interrupt that.
            stack.callback(_ignore_signals)
            yield

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
    try:
        if not marker.exists() and folder.exists() and any(folder.iterdir()):
            raise ActionRequired(f"{folder} has content that is not stormfold's", hint)
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_file(marker)
    except OSError as error:
        raise ActionRequired(f"{folder}: {error.strerror}", hint) from error
    if lock is None:
        raise ActionRequired(f"{folder} is in use by another stormfold", f"stop that one, or {hint}")
    with lock:
        yield


@contextmanager
def _on_first_signal(handle: Callable[[], None]) -> Iterator[None]:
    """Calls `handle` at the first of `SIGNALS`. Later ones are ignored, so that nothing interrupts the clean-up."""

    def first(*_: object) -> None:
        _ignore_signals()
        handle()

    before = [(number, signal.signal(number, first)) for number in SIGNALS]
    yield
    # Not after an error: then the command is already on its way out.
    for number, handler in before:
        signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raises `KeyboardInterrupt` at the first of `SIGNALS`, and ignores later ones."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with _on_first_signal(interrupt):
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
        with _on_first_signal(cancel), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
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
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await worker.stop()


@asynccontextmanager
async def run_in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs `work` until the block ends. If it fails, the block is cancelled, and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            yield
            task.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def follow_aggregates(settings: Settings, handle: Callable[[Aggregate], None], *, past: bool) -> None:
    """Calls `handle` with each aggregate that is published, until cancelled; with `past`, first with earlier ones.

    Raises `ActionRequired` or `Retry`.
    """
    async with open_reader(settings) as reader:
        async for record in reader.read(settings.storms_topic, None if past else 0, follow=True):
            # Others may write to the topic, too.
            with suppress(Malformed):
                handle(decode_manifest(record.value))


def log_to(path: Path, level: str) -> None:
    """Sends the whole log to a file, one JSON object on each line."""
    logs.configure("json", level, stream=path.open("a", encoding="utf-8"))


def free_or_none(port: int) -> int | None:
    """The port if it is free, otherwise None."""
    return port if port_is_free(port) else None


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
