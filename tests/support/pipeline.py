"""Drives the whole pipeline: publishes records, runs workers as processes, reads the topics, and audits the books."""

import asyncio
import random
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer

from stormfold.audit import AuditReport, audit
from stormfold.config import Config, load
from stormfold.kafka.client import client_options
from stormfold.kafka.reader import open_reader
from stormfold.keyed_record import ALERT, HEAD
from stormfold.manifest import from_manifest
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.storm import Aggregate
from tests.support.alerts import Sent, alert, record
from tests.support.model import Counts, batch_model, counts_of, keyed_model
from tests.support.workers import Workers

SHORT_WINDOWS = "windows: {gap: 2s, grace: 1s, slice: 10s}\n"
"""A configuration whose sessions close within seconds."""


async def publish(settings: Settings, records: Iterable[Sent], compression: str | None = None) -> None:
    """Publishes records in order, each with its own timestamp; `compression` names a codec of Kafka."""
    producer = AIOKafkaProducer(
        **client_options(settings), acks="all", max_batch_size=500_000, max_request_size=50_000_000, linger_ms=5,
        compression_type=compression,
    )  # fmt: skip
    await producer.start()
    try:
        waiting = [
            await producer.send(
                settings.alerts_topic, r.value, key=r.key, headers=list(r.headers), partition=r.partition,
                timestamp_ms=r.time,
            )
            for r in records
        ]  # fmt: skip
        await asyncio.gather(*waiting)
    finally:
        await producer.stop()


async def publish_live(settings: Settings, seconds: float, seed: int) -> int:
    """Publishes alerts at the current time for some seconds; returns their number."""
    rng = random.Random(seed)
    end, sent = time.time() + seconds, 0
    while (now := time.time()) < end:
        # Every group is silent now and then, so that sessions close while others are open.
        awake = [n for n in range(12) if int(now / 3 + n) % 3]
        made = [alert(f"Live{rng.choice(awake)}", pod=f"pod-{rng.randrange(40)}") for _ in range(60)]
        at = int(now * 1000)
        await publish(settings, [Sent(at, record(one), rng.randrange(3)) for one in made])
        sent += len(made)
        await asyncio.sleep(0.05)
    return sent


async def read_topic(settings: Settings, topic: str) -> list[Any]:
    """Returns every record that a topic holds now."""
    async with open_reader(settings) as tail:
        return [found async for found in tail.read(topic)]


async def source_positions(settings: Settings) -> list[tuple[int, int, int]]:
    """Returns (partition, offset, index) of each alert in the keyed topic, duplicates included."""
    keyed = [found.value for found in await read_topic(settings, settings.keyed_topic)]
    return [HEAD.unpack_from(value)[3:6] for value in keyed if value[0] == ALERT]


async def aggregates(settings: Settings, besides: Collection[str] = ()) -> dict[str, Aggregate]:
    """Returns the published aggregates by name, without the names in `besides`. A repeated one must be identical."""
    found: dict[str, bytes] = {}
    for published in await read_topic(settings, settings.storms_topic):
        name = published.key.decode()
        if name in besides:
            continue
        assert found.setdefault(name, published.value) == published.value, f"two aggregates named {name}"
    return {name: from_manifest(msgspec.json.decode(value)) for name, value in found.items()}


async def books(settings: Settings, config: Path | None = None, wait: float = 30.0) -> AuditReport:
    """Audits the books, after waiting up to `wait` seconds for workers to read everything."""
    redis = connect(settings)
    try:
        return await audit(settings, load(config), Store(redis, settings.redis_prefix), wait)
    finally:
        await redis.aclose()


def assert_balanced(report: AuditReport, **expected: int) -> None:
    """Asserts that every alert was counted exactly once and, unless `expected` has `open`, that nothing is open.

    `expected` has further fields of the report. Incidents that are over must be those that the storms give.
    """
    wanted = {"balanced": True, "open": 0, **expected}
    assert {name: getattr(report, name) for name in wanted} == wanted, report
    assert report.incidents is None or report.incidents.matches, report.incidents.verdict


async def drained(settings: Settings, config: Path | None = None, seconds: float = 60.0) -> AuditReport:
    """Waits until every alert is in a closed aggregate or a dead letter; returns the audit at the end."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        left = deadline - asyncio.get_running_loop().time()
        now = await books(settings, config, wait=max(0.0, left))
        if (now.open == 0 and now.balanced) or left <= 0:
            return now
        await asyncio.sleep(0.2)


@dataclass
class Pipeline:
    """One pipeline of a test: topics, groups and keys of its own, and the workers on them."""

    settings: Settings
    workers: Workers

    def configure(self, text: str = SHORT_WINDOWS) -> Path:
        """Writes the configuration file that workers started from now on use; returns its path."""
        self.workers.config = self.workers.folder / "stormfold.yaml"
        self.workers.config.write_text(text)
        return self.workers.config

    @property
    def config(self) -> Config:
        """The configuration of the workers."""
        return load(self.workers.config)

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Starts one more worker; `environment` has further settings, without the prefix."""
        return self.workers.start(**environment)

    def logs(self) -> str:
        """Returns the newest logs of all workers."""
        return self.workers.logs()

    async def publish(self, records: Iterable[Sent], compression: str | None = None) -> None:
        """Publishes records to `alerts` in order; `compression` names a codec of Kafka."""
        await publish(self.settings, records, compression)

    async def read(self, topic: str) -> list[Any]:
        """Returns every record that a topic holds now."""
        return await read_topic(self.settings, topic)

    async def source_positions(self) -> list[tuple[int, int, int]]:
        """Returns (partition, offset, index) of each alert in the keyed topic, duplicates included."""
        return await source_positions(self.settings)

    async def aggregates(self) -> dict[str, Aggregate]:
        """Returns the published aggregates by name."""
        return await aggregates(self.settings)

    async def counts(self) -> dict[str, Counts]:
        """Returns what the published aggregates count, by name."""
        return {name: counts_of(found) for name, found in (await self.aggregates()).items()}

    async def audit(self, wait: float = 30.0) -> AuditReport:
        """Audits the books, after waiting up to `wait` seconds for workers to read everything."""
        return await books(self.settings, self.workers.config, wait)

    async def drained(self, seconds: float = 60.0, **expected: int) -> AuditReport:
        """Waits until nothing is open, and asserts that every alert was counted once; see `assert_balanced`."""
        report = await drained(self.settings, self.workers.config, seconds)
        assert_balanced(report, **expected)
        return report

    def model(self, alerts: Iterable[tuple[int, dict[str, Any]]]) -> dict[str, Counts]:
        """Returns the aggregates that (event time, alert), in order of time, must make under this configuration."""
        return batch_model(self.config, alerts)

    async def assert_aggregates(self, expected: Mapping[str, Counts], seconds: float = 60.0, **report: int) -> None:
        """Asserts that every alert is counted once, in exactly these aggregates."""
        await self.drained(seconds, **report)
        assert await self.counts() == expected

    async def assert_keyed_model(self, seconds: float = 60.0, **report: int) -> dict[str, Counts]:
        """Asserts that every alert is counted once, in exactly the aggregates of the keyed topic; returns these."""
        await self.drained(seconds, **report)
        found = await self.counts()
        assert found == await keyed_model(self.settings, self.config)
        return found
