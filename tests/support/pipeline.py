"""Drives the whole pipeline: alerts with chosen timestamps in, workers as processes that can be killed, storms out."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from app.audit import Books, audit
from app.config import Config, load
from app.kafka.client import client_options
from app.kafka.lookup import partitions_of
from app.keyed import Body, GroupMeta
from app.series import SeriesReader
from app.settings import PREFIX, Settings
from app.store.client import connect
from app.store.redis import Store
from app.storm import StormMetadata, storm_name, to_metadata
from app.window import Bucket, segments


class Sent(NamedTuple):
    """One record to publish: timestamp (ms), value, and the partition of `alerts`."""

    time: int
    value: bytes
    partition: int = 0


def alert(name: str = "Down", *, pod: str = "", resolved: bool = False, **labels: str) -> dict[str, Any]:
    """A plain alert of the group (name, cluster `c`)."""
    labels = {"alertname": name, "cluster": "c", "severity": "warning", **labels}
    if pod:
        labels |= {"pod": pod, "namespace": "ns"}
    return {"labels": labels, "annotations": {}, "status": "resolved" if resolved else "firing"}


def record(*alerts: dict[str, Any]) -> bytes:
    """One alert as a record of its own, several as a list."""
    return msgspec.json.encode(alerts[0] if len(alerts) == 1 else alerts)


async def publish(settings: Settings, records: Iterable[Sent]) -> None:
    """Publishes records in order, each with its own timestamp."""
    producer = AIOKafkaProducer(
        **client_options(settings), acks="all", max_batch_size=500_000, max_request_size=20_000_000, linger_ms=5
    )
    await producer.start()
    try:
        waiting = [
            await producer.send(settings.alerts_topic, r.value, partition=r.partition, timestamp_ms=r.time)
            for r in records
        ]
        await asyncio.gather(*waiting)
    finally:
        await producer.stop()


async def read_topic(settings: Settings, topic: str) -> list[Any]:
    """Every record that a topic holds now, partition by partition."""
    consumer = AIOKafkaConsumer(**client_options(settings), enable_auto_commit=False)
    await consumer.start()
    try:
        tps = [TopicPartition(topic, p) for p in sorted(await partitions_of(settings, topic))]
        ends = await consumer.end_offsets(tps)
        consumer.assign(tps)
        await consumer.seek_to_beginning()
        found: dict[TopicPartition, list[Any]] = defaultdict(list)
        while left := [tp for tp in tps if await consumer.position(tp) < ends[tp]]:
            for tp, records in (await consumer.getmany(*left, timeout_ms=500)).items():
                found[tp] += records
        return [r for tp in tps for r in found[tp]]
    finally:
        await consumer.stop()


async def storms(settings: Settings) -> dict[str, StormMetadata]:
    """What was published, newest record per name."""
    records = await read_topic(settings, settings.storms_topic)
    return {r.key.decode(): to_metadata(msgspec.json.decode(r.value)) for r in records}


async def books(settings: Settings, config: Path | None = None, wait: float = 30.0) -> Books:
    """The audit."""
    redis = connect(settings)
    try:
        return await audit(settings, load(config), Store(redis, settings.redis_prefix), wait)
    finally:
        await redis.aclose()


async def drained(settings: Settings, config: Path | None = None, seconds: float = 60.0) -> Books:
    """Waits until everything published is in a closed storm or a dead letter; the books as they are in the end."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        left = deadline - asyncio.get_running_loop().time()
        now = await books(settings, config, wait=max(0.0, left))
        if (now.open == 0 and now.balanced) or left <= 0:
            return now
        await asyncio.sleep(0.2)


def batch_model(config: Config, alerts: Iterable[tuple[int, dict[str, Any]]]) -> dict[str, int]:
    """Storm name → alertCount of alerts (event time, plain alert), computed in one go: none of them late."""
    reader = SeriesReader(config)
    groups: dict[bytes, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for time, plain in alerts:
        ((keyed, _),) = reader.understand(record(plain), (), time)
        meta = msgspec.msgpack.decode(keyed.body_at(time), type=Body).meta
        groups[meta][config.windows.bucket(time)].append(time)
    result = {}
    for meta, buckets in groups.items():
        made = [Bucket(start, len(times), min(times), max(times)) for start, times in buckets.items()]
        for part in segments(made, config.windows):
            name = storm_name(msgspec.msgpack.decode(meta, type=GroupMeta), part.start)
            result[name] = sum(bucket.alerts for bucket in part.buckets)
    return result


@dataclass
class Workers:
    """Worker processes against the test's servers; all are stopped at the end."""

    settings: Settings
    folder: Path
    config: Path | None = None
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Starts one more; `environment` are further settings, without the prefix."""
        known = {
            name: str(value)
            for name, value in self.settings.model_dump(exclude_none=True, exclude_defaults=True).items()
            if name not in ("config",)
        }
        known |= {"config": str(self.config)} if self.config else {}
        known |= environment
        log = (self.folder / f"worker-{len(self.running)}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-c", "from app.cli import main; main()", "worker"],
            env=os.environ | {PREFIX + name.upper(): value for name, value in known.items()},
            stdout=log,
            stderr=log,
        )
        self.running.append(process)
        return process

    def logs(self) -> str:
        """What all of them have printed."""
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
