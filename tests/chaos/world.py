"""Real servers, workers that reach each of them through a proxy of their own, and a producer that never rests."""

import asyncio
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from app.config import Config, load
from app.kafka.client import client_options, open_admin
from app.kafka.topics import create, topics
from app.local.kafka import EmbeddedKafka
from app.local.process import HOST, free_port
from app.local.redis import EmbeddedRedis, find_servers
from app.settings import Settings
from tests.chaos.load import Planned
from tests.chaos.toxiproxy import Proxy, Toxiproxy
from tests.support.pipeline import Workers

WINDOWS = "windows: {gap: 3s, grace: 2s, slice: 12s}\nmax_storms: 1000000\n"
"""Small enough that a fault meets storms in every state; nothing is deleted by retention."""
PARTITIONS = 12
SESSION = 4.0
"""Seconds after which the broker takes a worker for dead."""
WORKERS = 3
"""At work all the time; one slot more is for a worker that comes and goes."""
NEWS_MS = 500
"""Longest that records wait for the broker before the producer stops to make new ones."""
PAUSE = 0.02


class Redis(EmbeddedRedis):
    """One that can be put to sleep."""

    def prepare(self) -> list[str]:
        """Before version 7 that needs no leave."""
        asked = ["--enable-debug-command", "local"] if find_servers()[0].version >= (7,) else []
        return [*super().prepare(), *asked]


@dataclass
class Slot:
    """A place for a worker: its ways to the servers, and the process that is there now."""

    number: int
    kafka: Proxy
    redis: Proxy
    process: subprocess.Popen[bytes] | None = None
    http: str = ""

    @property
    def running(self) -> bool:
        """Whether somebody is there."""
        return self.process is not None and self.process.poll() is None


@dataclass
class World:
    """All of it. Faults change it and put it right again."""

    folder: Path
    kafka: EmbeddedKafka
    redis: EmbeddedRedis
    toxiproxy: Toxiproxy
    slots: list[Slot]
    workers: Workers
    settings: Settings
    """How the run itself reaches Kafka and Redis, past the proxies."""
    config: Config
    sink: Path
    producer: "LiveLoad"
    upstream: dict[str, str] = field(default_factory=dict)

    @property
    def staffed(self) -> list[Slot]:
        """The slots with a worker in them."""
        return [slot for slot in self.slots if slot.running]

    def start(self, slot: Slot) -> None:
        """Puts a new worker there."""
        slot.http = f"{HOST}:{free_port()}"
        slot.process = self.workers.start(
            kafka=slot.kafka.address, redis=f"redis://{slot.redis.address}/0", http=slot.http,
            sink=f"directory:{self.sink}",
        )  # fmt: skip

    async def end(self, slot: Slot, sign: signal.Signals) -> None:
        """Ends the worker there, and waits until it is gone."""
        assert slot.process is not None
        slot.process.send_signal(sign)
        await asyncio.to_thread(slot.process.wait, 30)


class LiveLoad:
    """Publishes what is planned as its time comes, each record with the timestamp of its moment.

    While the broker is away nothing new happens: producers that go on for minutes would only make everything late.
    """

    def __init__(self, settings: Settings, planned: Iterator[Planned], grace: int) -> None:
        self._settings = settings
        self._planned = planned
        self._grace = grace
        self._waiting: deque[tuple[int, asyncio.Future[Any]]] = deque()
        self.sent = 0
        """Alerts given to the producer so far."""
        self.skew: dict[int, int] = {}
        """Milliseconds that the clock is wrong by of whoever publishes to a partition."""
        self.tardy: set[tuple[int, int]] = set()
        """(partition, offset) of records that were acknowledged more than the grace after their timestamp, or before
        it: their time is decided by when they came."""
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        """Goes on until it is stopped; returns when all is acknowledged."""
        begin = _now()
        async with AIOKafkaProducer(
            **client_options(self._settings), acks="all", enable_idempotence=True, linger_ms=10,
            max_batch_size=500_000, max_request_size=5_000_000, request_timeout_ms=120_000, compression_type="lz4",
        ) as producer:  # fmt: skip
            for planned in self._planned:
                early = begin + planned.at - (now := _now())
                if early > 0:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self.stopped.wait(), max(PAUSE, early / 1000))
                if self.stopped.is_set():
                    break
                if self._waiting and now - self._waiting[0][0] > NEWS_MS:
                    await self._acknowledged()
                begin += max(0, _now() - begin - planned.at - NEWS_MS)
                await self._send(producer, planned, begin + planned.at)
            await producer.flush()

    async def _send(self, producer: AIOKafkaProducer, planned: Planned, at: int) -> None:
        stamp = at + self.skew.get(planned.partition, 0)
        future = await producer.send(
            self._settings.alerts_topic, planned.value, partition=planned.partition, timestamp_ms=stamp,
            key=b"" if planned.value is None else None,
        )  # fmt: skip
        self._waiting.append((at, future))
        future.add_done_callback(lambda done: self._done(done, stamp))
        self.sent += max(1, len(planned.alerts))

    def _done(self, future: asyncio.Future[Any], stamp: int) -> None:
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()
        if not future.cancelled() and future.exception() is None and not 0 <= _now() - stamp <= self._grace:
            self.tardy.add((future.result().partition, future.result().offset))

    async def _acknowledged(self) -> None:
        for _, future in list(self._waiting):
            with suppress(KafkaError):
                await future


def _now() -> int:
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def world(folder: Path, planned: Iterator[Planned]) -> AsyncIterator[World]:
    """Everything is started, in a folder that exists; nothing has been published. All is stopped at the end."""
    config = folder / "stormfold.yaml"
    config.write_text(WINDOWS)
    sink = folder / "storms"
    async with AsyncExitStack() as stack:
        toxiproxy = Toxiproxy(folder / "toxiproxy")
        redis = Redis(folder / "redis")
        stack.push_async_callback(asyncio.to_thread, toxiproxy.stop)
        await asyncio.to_thread(toxiproxy.start)
        slots = [Slot(n, Proxy(toxiproxy, f"kafka-{n}"), Proxy(toxiproxy, f"redis-{n}")) for n in range(WORKERS + 1)]
        kafka, listeners = broker(folder / "kafka", [slot.kafka.address for slot in slots])
        stack.push_async_callback(asyncio.to_thread, kafka.kill)
        stack.push_async_callback(asyncio.to_thread, redis.kill)
        await asyncio.gather(asyncio.to_thread(kafka.start), asyncio.to_thread(redis.start))
        for slot, listener in zip(slots, listeners, strict=True):
            await slot.kafka.open(listener)
            await slot.redis.open(redis.address)
        settings = Settings(
            kafka=kafka.bootstrap, redis=redis.url, http=f"{HOST}:0", session_timeout=SESSION, delivery_timeout=5,
            lease=15,
        )  # fmt: skip
        async with open_admin(settings) as admin:
            await create(admin, topics(settings, PARTITIONS, past=True))
        with Workers(settings, folder, config) as workers:
            read = load(config)
            yield World(
                folder, kafka, redis, toxiproxy, slots, workers, settings, read, sink,
                LiveLoad(settings, planned, read.windows.grace),
            )  # fmt: skip


def broker(folder: Path, ways: list[str]) -> tuple[EmbeddedKafka, list[str]]:
    """A broker, not started, that can be reached by each of these ways; and the listeners behind them, in order."""
    own, controller, *others = (free_port() for _ in range(2 + len(ways)))
    listeners = {f"W{number}": f"{HOST}:{port}" for number, port in enumerate(others)}
    names = ["PLAINTEXT", *listeners]
    listens = {"PLAINTEXT": f"{HOST}:{own}", **listeners, "CONTROLLER": f"{HOST}:{controller}"}
    told = {"PLAINTEXT": f"{HOST}:{own}", **dict(zip(listeners, ways, strict=True))}
    properties = {
        "listeners": ",".join(f"{name}://{address}" for name, address in listens.items()),
        "advertised.listeners": ",".join(f"{name}://{address}" for name, address in told.items()),
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listens),
        "inter.broker.listener.name": names[0],
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "group.min.session.timeout.ms": "1000",
    }
    return EmbeddedKafka(folder, own, properties=properties), list(listeners.values())


def descriptors(process: subprocess.Popen[bytes]) -> int:
    """Files and sockets that a process has open."""
    return sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir())


def resident(process: subprocess.Popen[bytes]) -> int:
    """Bytes of memory that a process holds."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
