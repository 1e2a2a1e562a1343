"""Kafka and Redis together, below one folder, and a worker beside them: started, and stopped whatever happens."""

import asyncio
import fcntl
import logging
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
from stormfold.local.process import ServerProcess, port_is_free
from stormfold.local.redis import EmbeddedRedis
from stormfold.manifest import decode_manifest
from stormfold.settings import Settings
from stormfold.storm import Aggregate
from stormfold.worker import Worker

T = TypeVar("T")

PARTITIONS = 4
"""Of each topic: enough to see how work is shared, and quick to make."""
STOP_SECONDS = 8.0
"""A worker that has not stopped by then is left to its fate: what it has in hand would be done again."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""All of them mean: clean up and go."""
MARK = ".stormfold"
"""File that says that a folder is stormfold's, and is locked while it is used."""
_KEPT = ("data_dir", "log_level")
"""Settings that the local stack takes from the environment; all others speak of other servers."""


class Stack:
    """Kafka in `folder/kafka`, Redis in `folder/redis`. `say` gets a line now and then while they start.

    Everything here blocks, and may be interrupted: then nothing is left running.
    """

    def __init__(
        self, folder: Path, say: Callable[[str], None], kafka_port: int | None = None, redis_port: int | None = None
    ) -> None:
        self.kafka = EmbeddedKafka(folder / "kafka", port=kafka_port, on_progress=say)
        self.redis = EmbeddedRedis(folder / "redis", port=redis_port)
        self.peaceful = True
        """Whether the servers are asked to stop, and wait for their disks, or are killed: they recover from that."""
        self._say = say

    @contextmanager
    def running(self) -> Iterator[None]:
        """Starts both servers and stops them at the end. Raises `ActionRequired` if one of them does not start."""
        with ExitStack() as stack:
            servers: tuple[ServerProcess, ...] = (self.redis, self.kafka)
            for server in servers:
                self._say(f"Starting {server.name.capitalize()}")
                server.start()
                stack.callback(self._stop, server)
            # Unwound before the servers are stopped: a Ctrl-C that comes now must not cut that short.
            stack.callback(_ignore_signals)
            yield

    def _stop(self, server: ServerProcess) -> None:
        if self.peaceful:
            server.stop()
        else:
            server.kill()

    def settings(self, **values: Any) -> Settings:
        """Settings for these servers: of the environment only what has nothing to do with where servers are."""
        defaults = {name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()}
        environment = Settings()
        kept = {name: getattr(environment, name) for name in _KEPT}
        here = {"kafka_bootstrap_servers": self.kafka.bootstrap, "redis_url": self.redis.url}
        return Settings(**defaults | kept | here | values)


@contextmanager
def lock_directory(folder: Path, hint: str) -> Iterator[None]:
    """A folder that is stormfold's, and nobody else's for now; made if there is none.

    Raises `ActionRequired` if another stormfold uses it, if somebody else's things are in it, or if it can't be made.
    """
    mark = folder / MARK
    try:
        if not mark.exists() and folder.exists() and any(folder.iterdir()):
            raise ActionRequired(f"{folder} has something in it that is not stormfold's", hint)
        folder.mkdir(parents=True, exist_ok=True)
        lock = mark.open("ab")
    except OSError as error:
        raise ActionRequired(f"{folder}: {error.strerror}", hint) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ActionRequired(f"{folder} is in use by another stormfold", f"stop that one, or {hint}") from None
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Has the first signal that ends us raise `KeyboardInterrupt`, so that what was started is stopped.

    Further ones are ignored, here and afterwards: cleaning up takes a moment, and impatience must not cut it short.
    """

    def interrupt(*_: object) -> None:
        _ignore_signals()
        raise KeyboardInterrupt

    before = [(number, signal.signal(number, interrupt)) for number in SIGNALS]
    # Not after an error: whoever was interrupted, or has failed, is on the way out.
    yield
    for number, handler in before:
        signal.signal(number, handler)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs it in an event loop. The first signal cancels it, further ones are ignored while it cleans up.

    Raises `KeyboardInterrupt` then.
    """
    interrupted = False
    task: asyncio.Task[T] | None = None

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            if task is not None:
                task.cancel()

    async def watched() -> T:
        nonlocal task
        task = asyncio.create_task(main)
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, interrupt)
        if interrupted:
            task.cancel()
        return await task

    # Nothing may be raised in the midst of the event loop: it would forget what has begun.
    before = [(number, signal.signal(number, interrupt)) for number in SIGNALS]
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(watched())
    except BaseException:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before:
            signal.signal(number, signal.SIG_IGN if interrupted else handler)


@asynccontextmanager
async def working(settings: Settings, config: Config) -> AsyncIterator[Worker]:
    """A worker in this process, on topics that are made if they are missing. Raises `ActionRequired` or `Retry`."""
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
    """Does the work meanwhile. If it fails, what goes on beside it ends too, with its error."""
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            yield
            task.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def follow_storms(settings: Settings, see: Callable[[Aggregate], None], *, past: bool) -> None:
    """Has `see` called with each storm that is published, until cancelled; with `past` those that are there too.

    Raises `ActionRequired` or `Retry`.
    """
    async with open_reader(settings) as tail:
        async for record in tail.read(settings.storms_topic, None if past else 0, follow=True):
            # Others may write to the topic, too.
            with suppress(Malformed):
                see(decode_manifest(record.value))


def log_to(path: Path, level: str) -> None:
    """Has everything that is logged go to a file, one JSON object a line: the terminal is for other things."""
    logs.configure("json", level)
    stream = path.open("a", encoding="utf-8")
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(stream)


def port_or_any(port: int) -> int | None:
    """The port if it is free, else None."""
    return port if port_is_free(port) else None


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
