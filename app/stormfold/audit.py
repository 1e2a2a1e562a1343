"""The books: every alert in `alerts` is in exactly one storm, in a dead letter, or still open."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from aiokafka import ConsumerRecord

from stormfold.config import Config
from stormfold.decoding import Malformed, Poison, decode_untrusted
from stormfold.group import aggregate_name
from stormfold.kafka import dlq
from stormfold.kafka.committed import read_committed
from stormfold.kafka.reader import TopicReader, open_reader
from stormfold.redis.store import Store
from stormfold.series import SeriesReader
from stormfold.settings import Settings
from stormfold.window import segments

LOOK_EVERY = 0.25
"""Seconds between two looks at whether everything has been read."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Alerts in, and where they are; all over what retention still holds."""

    alerts: int
    """Alerts in `alerts`; a record that nobody understands counts as one."""
    storms: int
    """Σ alertCount over `storms`, newest record per name."""
    dead: int
    """Distinct records of `alerts` in `alerts-dlq`."""
    open: int
    """Alerts in groups that are not closed yet."""
    names: int
    """Distinct aggregates in `storms`: storms, and the others."""
    others: int
    """Those of them that are no storm: isolated or silenced."""
    unread: int
    """Records that the worker had not taken up when the wait was over: the books can't balance before."""
    trimmed: int
    """Records that retention has taken from `alerts`: the storms of those are counted, the alerts no longer are."""
    foreign: int
    """Records in `storms` and `alerts-dlq` that stormfold did not write: they count for nothing."""

    @property
    def difference(self) -> int:
        """Alerts missing from the other side; negative: counted too often."""
        return self.alerts - self.storms - self.dead - self.open

    @property
    def balanced(self) -> bool:
        """Nothing lost, nothing counted twice."""
        return self.difference == 0 and self.unread == 0


class _Counted(NamedTuple):
    alerts: int
    storm: bool
    """Rather than an isolated or a silenced group."""


async def audit(settings: Settings, config: Config, store: Store, wait: float = 30.0) -> AuditReport:
    """Counts both sides, after waiting up to `wait` seconds until all that was published has been folded.

    Raises `Retry` or `ActionRequired` if Kafka or Redis can't be asked.
    """
    until = time.monotonic() + wait
    async with open_reader(settings) as tail:
        audit = _Audit(settings, config, store, tail)
        while True:
            unread = await audit.wait_folded(until)
            ends = await tail.ends(settings.alerts_topic)
            books = await audit.count(unread)
            if books.balanced or time.monotonic() >= until:
                return books
            # Somebody may have published, or closers moved something, meanwhile: then count again.
            still = ends == await tail.ends(settings.alerts_topic) and not await audit.moving()
            if still and unread == 0:
                return books


class _Audit:
    def __init__(self, settings: Settings, config: Config, store: Store, tail: TopicReader) -> None:
        self._settings = settings
        self._reader = SeriesReader(config)
        self._store = store
        self._tail = tail

    async def moving(self) -> bool:
        """Whether closers moved something between two looks: then the count before may be torn."""
        before = await self._tail.ends(self._settings.storms_topic)
        await asyncio.sleep(LOOK_EVERY)
        return before != await self._tail.ends(self._settings.storms_topic)

    async def wait_folded(self, until: float) -> int:
        """Waits until what is in `alerts` now is folded; returns the records that were not."""
        settings = self._settings
        alerts = await self._tail.ends(settings.alerts_topic)
        group = settings.consumer_group("intake")
        while unread := _behind(
            {p: offset for p, (offset, _) in (await read_committed(settings, group, settings.alerts_topic)).items()},
            alerts,
        ):
            if time.monotonic() >= until:
                return unread
            await asyncio.sleep(LOOK_EVERY)
        keyed = await self._tail.ends(settings.keyed_topic)
        while unread := _behind(await self._folded(), keyed):
            if time.monotonic() >= until:
                return unread
            await asyncio.sleep(LOOK_EVERY)
        return 0

    async def count(self, unread: int) -> AuditReport:
        settings = self._settings
        open_now = await self._open()
        begins = await self._tail.begins(settings.alerts_topic)
        alerts = 0
        async for record in self._tail.read(settings.alerts_topic):
            try:
                alerts += len(self._reader.parse(record.value, record.headers, record.timestamp))
            except Poison:
                alerts += 1
        letters = [
            dlq.origin_in(record, settings.alerts_topic)
            async for record in self._tail.read(settings.alerts_dlq_topic)
            if not dlq.is_redrive_mark(record)
        ]
        ends = await self._tail.ends(settings.alerts_topic)
        origins = [origin for origin in letters if origin and origin[1] < ends.get(origin[0], 0)]
        dead = {(partition, offset) for partition, offset in origins if offset >= begins.get(partition, 0)}
        foreign = len(letters) - len(origins)
        storms: dict[bytes, _Counted] = {}
        async for record in self._tail.read(settings.storms_topic):
            if (counted := _counted(record)) is None:
                foreign += 1
            else:
                storms[record.key] = counted
        return AuditReport(
            alerts=alerts,
            storms=sum(counted.alerts for counted in storms.values()),
            dead=len(dead),
            # What was closed while we counted stands in both: by name it is one.
            open=sum(count for name, count in open_now.items() if name not in storms),
            names=len(storms),
            others=sum(not counted.storm for counted in storms.values()),
            unread=unread,
            trimmed=sum(begins.values()),
            foreign=foreign,
        )

    async def _folded(self) -> dict[int, int]:
        state = await self._store.load()
        return {} if state is None else {p: at.offset for p, at in state.positions.items()}

    async def _open(self) -> dict[bytes, int]:
        epoch = await self._store.epoch()
        if epoch is None:
            return {}
        result = {}
        for group in await self._store.open_buckets(epoch):
            for part in segments(group.buckets, epoch.windows, epoch.rebuild):
                if epoch.rebuild is None or part.start >= epoch.rebuild.closed_before:
                    name = aggregate_name(group.meta, part.start, epoch.windows.gap).encode()
                    result[name] = sum(bucket.alerts for bucket in part.buckets)
        return result


def _behind(reached: Mapping[int, int], ends: Mapping[int, int]) -> int:
    return sum(max(0, end - reached.get(partition, 0)) for partition, end in ends.items())


def _counted(record: ConsumerRecord) -> _Counted | None:
    """What a record of `storms` counts for; None if no closer wrote it."""
    try:
        spec = decode_untrusted(msgspec.json.decode, record.value)["spec"]
        alerts, storm = spec["alertCount"], spec["class"] == "Storm"
    except (KeyError, TypeError, Malformed):
        return None
    return _Counted(alerts, storm) if record.key and type(alerts) is int and alerts > 0 else None
