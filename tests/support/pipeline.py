"""Drives the whole pipeline: alerts with chosen timestamps in, workers as processes that can be killed, storms out."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaProducer

from stormfold.audit import AuditReport, audit
from stormfold.config import Config, load
from stormfold.group import GroupMeta, aggregate_name
from stormfold.kafka.client import client_options
from stormfold.kafka.reader import open_reader
from stormfold.keyed_record import ALERT, HEAD, LATE, RESOLVED, Body
from stormfold.local.process import spawn
from stormfold.manifest import from_manifest
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.resource import Resource
from stormfold.series import SeriesReader
from stormfold.settings import Settings, variable
from stormfold.storm import Aggregate
from stormfold.window import Bucket, segments
from tests.support.servers import environment as variables


class Sent(NamedTuple):
    """One record to publish: timestamp (ms), value, the partition of `alerts`, and what else a record can have."""

    time: int
    value: bytes | None
    partition: int = 0
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()


def alert(name: str = "Down", *, pod: str = "", resolved: bool = False, **labels: str) -> dict[str, Any]:
    """A plain alert of the group (name, cluster `c`)."""
    labels = {"alertname": name, "cluster": "c", "severity": "warning", **labels}
    if pod:
        labels |= {"pod": pod, "namespace": "ns"}
    return {"labels": labels, "annotations": {}, "status": "resolved" if resolved else "firing"}


def record(*alerts: dict[str, Any]) -> bytes:
    """One alert as a record of its own, several as a list."""
    return msgspec.json.encode(alerts[0] if len(alerts) == 1 else alerts)


async def publish(settings: Settings, records: Iterable[Sent], compression: str | None = None) -> None:
    """Publishes records in order, each with its own timestamp; `compression` is a codec that Kafka knows."""
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


async def read_topic(settings: Settings, topic: str) -> list[Any]:
    """Every record that a topic holds now."""
    async with open_reader(settings) as tail:
        return [found async for found in tail.read(topic)]


async def origins(settings: Settings) -> list[tuple[int, int, int]]:
    """(partition, offset, index in the record) of the alerts in the keyed topic, each as often as it is there."""
    keyed = [found.value for found in await read_topic(settings, settings.keyed_topic)]
    return [HEAD.unpack_from(value)[3:6] for value in keyed if value[0] == ALERT]


async def storms(settings: Settings, besides: Collection[str] = ()) -> dict[str, Aggregate]:
    """What was published, newest record per name, but for some names. One that comes again must say the same again."""
    found: dict[str, bytes] = {}
    for published in await read_topic(settings, settings.storms_topic):
        name = published.key.decode()
        if name in besides:
            continue
        assert found.setdefault(name, published.value) == published.value, f"two storms named {name}"
    return {name: from_manifest(msgspec.json.decode(value)) for name, value in found.items()}


async def books(settings: Settings, config: Path | None = None, wait: float = 30.0) -> AuditReport:
    """The audit."""
    redis = connect(settings)
    try:
        return await audit(settings, load(config), Store(redis, settings.redis_prefix), wait)
    finally:
        await redis.aclose()


def assert_balanced(report: AuditReport, **expected: int) -> None:
    """Asserts that every alert was counted exactly once and, unless `expected` has `open`, that nothing is open.

    `expected` has further fields of the report.
    """
    wanted = {"balanced": True, "open": 0, **expected}
    assert {name: getattr(report, name) for name in wanted} == wanted, report


async def drained(settings: Settings, config: Path | None = None, seconds: float = 60.0) -> AuditReport:
    """Waits until everything published is in a closed storm or a dead letter; the books as they are in the end."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        left = deadline - asyncio.get_running_loop().time()
        now = await books(settings, config, wait=max(0.0, left))
        if (now.open == 0 and now.balanced) or left <= 0:
            return now
        await asyncio.sleep(0.2)


class Essence(NamedTuple):
    """What a storm says, as far as it can be computed without stormfold's fold."""

    alerts: int
    distinct: int
    resolved: int
    resources: frozenset[tuple[str, int]]
    first: int
    last: int
    reason: str


def essence(storm: Aggregate) -> Essence:
    """The essence of a published storm."""
    resources = frozenset((str(entry.resource), entry.alerts) for entry in storm.resources)
    return Essence(
        storm.alert_count, storm.distinct, storm.resolved, resources, storm.first_seen, storm.last_seen,
        storm.close_reason,
    )  # fmt: skip


def batch_model(config: Config, alerts: Iterable[tuple[int, dict[str, Any]]]) -> dict[str, Essence]:
    """Storms by name, of alerts (event time, plain alert) in order of time, computed in one go: none of them late."""
    reader = SeriesReader(config)
    stamped = []
    for time, plain in alerts:
        ((keyed, resolved),) = reader.parse(record(plain), (), time)
        stamped.append((time, msgspec.msgpack.decode(keyed.body_at(time), type=Body), resolved))
    return model(config, stamped)


async def keyed_model(settings: Settings, config: Config) -> dict[str, Essence]:
    """Storms by name, as the log of the keyed topic decides them: each origin once, at the time it was stamped with."""
    return model(config, [found.stamped async for found in keyed_alerts(settings)])


class Keyed(NamedTuple):
    """One alert of the keyed topic."""

    stamped: "Stamped"
    late: bool
    origin: tuple[int, int, int]
    """Where it came from: partition of `alerts`, offset, index in the record."""


Stamped = tuple[int, Body, bool]
"""Event time, what is the same for the series, whether it is a resolution."""


async def keyed_alerts(settings: Settings) -> AsyncIterator[Keyed]:
    """The alerts of the keyed topic that count: of each origin the first, in the order of the log."""
    newest: dict[tuple[int, int], tuple[int, int]] = {}
    bodies: dict[bytes, Body] = {}
    async with open_reader(settings) as tail:
        async for keyed in tail.read(settings.keyed_topic):
            if keyed.value[0] != ALERT:
                continue
            _, flags, time, partition, offset, index = HEAD.unpack_from(keyed.value)
            cell = (keyed.partition, partition)
            if newest.get(cell, (-1, -1)) < (offset, index):
                newest[cell] = (offset, index)
                raw = keyed.value[HEAD.size :]
                if (body := bodies.get(raw)) is None:
                    body = bodies[raw] = msgspec.msgpack.decode(raw, type=Body)
                yield Keyed((time, body, bool(flags & RESOLVED)), bool(flags & LATE), (partition, offset, index))


def model(config: Config, stamped: Iterable[Stamped]) -> dict[str, Essence]:
    """Storms by name, of alerts in any order across event times."""
    groups: dict[bytes, defaultdict[int, list[Stamped]]] = {}
    for entry in stamped:
        groups.setdefault(entry[1].meta, defaultdict(list))[config.windows.bucket(entry[0])].append(entry)
    result = {}
    for packed, found in groups.items():
        meta = msgspec.msgpack.decode(packed, type=GroupMeta)
        times = {start: [time for time, _, _ in entries] for start, entries in found.items()}
        buckets = [Bucket(start, len(at), min(at), max(at)) for start, at in times.items()]
        for part in segments(buckets, config.windows):
            inside = sorted((e for bucket in part.buckets for e in found[bucket.start]), key=lambda entry: entry[0])
            newest = {body.fingerprint: at for at, body, _ in inside}
            # Of two at the same millisecond, the resolution counts as the newer one.
            resolved = {b.fingerprint for at, b, resolved in inside if resolved and at == newest[b.fingerprint]}
            resources = Counter(body.resource for _, body, _ in inside if body.resource)
            result[aggregate_name(meta, part.start, config.windows.gap)] = Essence(
                len(inside), len(newest), len(resolved),
                frozenset((str(msgspec.msgpack.decode(r, type=Resource)), n) for r, n in resources.items()),
                inside[0][0], inside[-1][0], part.reason,
            )  # fmt: skip
    return result


@dataclass
class Workers:
    """Worker processes against the test's servers; none outlives the test, whatever becomes of it."""

    settings: Settings
    folder: Path
    config: Path | None = None
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Starts one more; `environment` are further settings, without the prefix."""
        more = ({"config": str(self.config)} if self.config else {}) | environment
        environ = os.environ | variables(self.settings) | {variable(name): value for name, value in more.items()}
        command = [sys.executable, "-c", "from stormfold.cli import main; main()", "worker"]
        with (self.folder / f"worker-{len(self.running)}.log").open("ab") as log:
            process = spawn(command, log, Path.cwd(), environ)
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
