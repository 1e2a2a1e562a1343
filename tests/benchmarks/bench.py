"""Tools of all parts: servers, pipelines of their own, backlogs for frozen workers, CPU seconds."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp
from confluent_kafka import Producer
from redis.asyncio import Redis

from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import create, topics
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.process import free_port
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import STAGES, Settings
from stormfold.status.snapshot import STAGES as READERS
from tests.benchmarks.results import Run, Taken, Usage, this_run
from tests.support.alerts import Sent
from tests.support.servers import fresh_settings, until
from tests.support.workers import Workers

T = TypeVar("T")

PARTITIONS = 12
MIN_INTERVAL, MAX_INTERVAL = 0.05, 0.5
"""Seconds between two reads of a worker's counters: half of the time that is left, because each read costs the worker
a millisecond."""
TIMEOUT = 300.0
"""Longest wait for anything (s): far more than it takes."""
SESSION_TIMEOUT = "200"
"""Seconds for which a worker may be frozen."""
TICK = os.sysconf("SC_CLK_TCK")

Feed = Callable[[], Awaitable[object]]


@dataclass
class Bench:
    """One run of parts. `quick` makes all sizes small, to test the benchmark itself."""

    kafka: EmbeddedKafka
    redis: EmbeddedRedis
    folder: Path
    rounds: int
    quick: bool
    progress: Callable[[str], None]
    """Shows one line about what is measured now."""

    def size(self, full: T, quick: T) -> T:
        """Returns the full or the quick size."""
        return quick if self.quick else full

    def run(self) -> Run:
        """Returns the description of this run."""
        return this_run(self.rounds, self.quick)

    async def pipeline(self, partitions: int = PARTITIONS, redis: EmbeddedRedis | None = None) -> Settings:
        """Returns settings with topics of their own, whose `alerts` takes any timestamp."""
        settings = fresh_settings(self.kafka, redis or self.redis).model_copy(update={"log_level": "error"})
        async with open_admin(settings) as admin:
            await create(admin, topics(settings, partitions, producer_timestamps=True, max_record=2_000_000))
        return settings

    async def take_up(
        self, settings: Settings, feed: Feed, counter: str, total: int,
        *, workers: int = 1, partitions: int = PARTITIONS, config: Path | None = None, **environment: str,
    ) -> Taken:  # fmt: skip
        """Starts workers, freezes them while `feed` fills their topic, then measures until `counter` reaches `total`.

        `counter` is the beginning of a line of their metrics; `environment` has further settings of the workers.
        """
        async with aiohttp.ClientSession() as session:
            with Workers(settings, self.folder, config) as running:
                processes, addresses = start(running, workers, environment)
                await assigned(session, addresses, _reading(environment) * partitions)
                for process in processes:
                    process.send_signal(signal.SIGSTOP)
                await feed()
                for process in processes:
                    process.send_signal(signal.SIGCONT)
                return await self.watch(session, processes, addresses, counter, total)

    async def watch(
        self, session: aiohttp.ClientSession, processes: list["subprocess.Popen[bytes]"], addresses: list[str],
        counter: str, total: int,
    ) -> Taken:  # fmt: skip
        """Measures from now until the workers' counter reaches `total`."""

        async def done() -> float:
            return await counted(session, addresses, counter)

        return await self.watched([process.pid for process in processes], done, total, total)

    async def watched(self, pids: list[int], done: Callable[[], Awaitable[float]], total: int, count: int) -> Taken:
        """Measures from now until `done` returns `total`, which is `count` more than now."""
        started, before = time.perf_counter(), self.usage(pids)
        resident = [_resident(pids[0])]
        while (left := total - await done()) > 0:
            elapsed = time.perf_counter() - started
            if elapsed > TIMEOUT:
                raise RuntimeError(f"{total - left:.0f} of {total}")
            if elapsed > len(resident) / 2:
                resident.append(_resident(pids[0]))
            remaining = elapsed * left / max(count - left, 1)
            await asyncio.sleep(min(max(remaining / 2, MIN_INTERVAL), MAX_INTERVAL))
        wall, after = time.perf_counter() - started, self.usage(pids)
        used = Usage(after.worker - before.worker, after.broker - before.broker, after.redis - before.redis)
        return Taken(count, wall, used, [*resident, _resident(pids[0])])

    def usage(self, workers: Iterable[int]) -> Usage:
        """Returns the CPU seconds used so far."""
        return Usage(sum(map(cpu_seconds, workers)), cpu_seconds(self.kafka.pid), cpu_seconds(self.redis.pid))


@asynccontextmanager
async def own_redis(bench: Bench, name: str) -> AsyncIterator[Redis]:
    """Starts a Redis of its own, and yields a client of it."""
    server = EmbeddedRedis(bench.folder / f"redis-{name}")
    await asyncio.to_thread(server.start)
    try:
        async with Redis.from_url(server.url, decode_responses=False) as client:
            yield client
    finally:
        await asyncio.to_thread(server.kill)


def start(
    running: Workers, workers: int, environment: Mapping[str, str]
) -> tuple[list["subprocess.Popen[bytes]"], list[str]]:
    """Starts workers; returns their processes and the addresses of their metrics."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(workers)]
    more = {**environment, "session_timeout": SESSION_TIMEOUT}
    return [running.start(http_address=address, **more) for address in addresses], addresses


async def counted(session: aiohttp.ClientSession, addresses: Iterable[str], counter: str) -> float:
    """Sums the metrics of all workers that begin with `counter`; workers that do not answer count as 0."""
    return sum([sum(values) for values in await asyncio.gather(*(_values(session, a, counter) for a in addresses))])


async def _values(session: aiohttp.ClientSession, address: str, counter: str) -> list[float]:
    with suppress(aiohttp.ClientConnectionError):
        # Only this metric: rendering all of them ten times a second would cost the worker measurable time.
        async with session.get(f"http://{address}/metrics", params={"name[]": counter.rstrip("{")}) as answer:
            lines = (await answer.text()).splitlines()
        return [float(line.rpartition(" ")[2]) for line in lines if line.startswith(counter)]
    return []


def _reading(environment: Mapping[str, str]) -> int:
    """Returns how many topics the worker's stages read: emit reads two."""
    stages = environment.get("stages", ",".join(STAGES)).split(",")
    return sum(reader.split("-")[0] in stages for reader in READERS)


async def assigned(session: aiohttp.ClientSession, addresses: list[str], partitions: int) -> None:
    """Waits until all workers are ready and have `partitions` partitions of all topics together."""

    async def ready() -> bool:
        shares = [await _values(session, address, "stormfold_position{") for address in addresses]
        return (
            await counted(session, addresses, "stormfold_ready") == len(addresses)
            and (not partitions or all(shares))
            and sum(map(len, shares)) == partitions
        )

    await until(ready, TIMEOUT, "workers are ready")


def fill(settings: Settings, records: Iterable[Sent]) -> None:
    """Publishes a backlog, much faster than `tests.support.pipeline.publish`."""
    failed: list[object] = []
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers, "acks": "all", "linger.ms": 20,
            "batch.size": 900_000,
            "message.max.bytes": 2_000_000, "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 2_000_000,
            "on_delivery": lambda error, _: failed.append(error) if error else None,
        }
    )  # fmt: skip
    for record in records:
        producer.produce(
            settings.alerts_topic, record.value, record.key, partition=record.partition, timestamp=record.time
        )
    if producer.flush(TIMEOUT) or failed:
        raise RuntimeError(f"the backlog was not published: {failed[:3]}")


def cpu_seconds(pid: int) -> float:
    """Returns the user and system time of a process (s)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def percentile(values: Iterable[float], share: float) -> float:
    """Returns the value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
