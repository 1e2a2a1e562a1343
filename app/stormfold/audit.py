"""The audit: every alert in `alerts` is in exactly one aggregate, in a dead letter, or still open."""

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec
from aiokafka import ConsumerRecord

from stormfold.audit_incidents import open_incident_audit
from stormfold.config import Config
from stormfold.decoding import Malformed, Poison, decode_untrusted
from stormfold.group import aggregate_name
from stormfold.incident_audit import IncidentReport
from stormfold.kafka import dlq
from stormfold.kafka.committed import read_committed
from stormfold.kafka.reader import TopicReader, open_reader
from stormfold.redis.store import Store
from stormfold.series import SeriesReader
from stormfold.settings import Settings
from stormfold.text import pluralize
from stormfold.window import segments

POLL_INTERVAL = 0.25
"""Seconds between two checks whether everything has been read."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The alerts that came in, and where they are. All numbers are of what retention still holds."""

    alerts: int
    """Alerts in `alerts`; a record that is a dead letter, or that cannot be parsed, counts as one."""
    aggregated: int
    """Sum of alertCount over `storms`, the newest record of each name."""
    dead_letters: int
    """Distinct records of `alerts` in `alerts-dlq`."""
    open: int
    """Alerts in groups that are not closed yet."""
    aggregates: int
    """Distinct aggregates in `storms`, of any class."""
    non_storms: int
    """Aggregates of class Isolated or Silenced."""
    unread: int
    """Records that the workers had not processed when the wait was over, or that arrived during the count. Until all
    records are processed, the sums differ."""
    expired: int
    """Records that retention has deleted from `alerts`: their aggregates are counted, they are not."""
    foreign: int
    """Records in `storms` and `alerts-dlq` that stormfold did not write. They are not counted elsewhere."""
    incidents: IncidentReport | None = None
    """The incidents, compared with those that the storms give; None if no worker has correlated yet."""
    left_out: int = 0
    """Alerts that senders left out of their webhooks. They never arrived, and are not counted elsewhere."""

    @property
    def difference(self) -> int:
        """Number of alerts that are missing; negative if some are counted too often."""
        return self.alerts - self.aggregated - self.dead_letters - self.open

    @property
    def balanced(self) -> bool:
        """Whether every alert is counted exactly once."""
        return self.difference == 0 and self.unread == 0

    @property
    def correct(self) -> bool:
        """Whether the alerts are counted exactly once and the incidents are those that the storms give."""
        return self.balanced and (self.incidents is None or self.incidents.matches)

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        foreign = ""
        if self.foreign:
            were = "was" if self.foreign == 1 else "were"
            foreign = f" {pluralize(self.foreign, 'record')} in storms or dead letters {were} not written by stormfold."
        if self.unread:
            have = "has" if self.unread == 1 else "have"
            return (
                f"Not known yet: {pluralize(self.unread, 'record')} {have} not been processed; see `stormfold status`."
            )
        if self.balanced:
            others = f" and {pluralize(self.non_storms, 'other aggregate')}" if self.non_storms else ""
            still_open = f", {self.open:,} in groups still open" if self.open else ""
            counted = (
                f"{self.alerts:,} alerts and invalid records" if self.dead_letters else pluralize(self.alerts, "alert")
            )
            return (
                f"Counted exactly once: {counted} = {self.aggregated:,} in"
                f" {pluralize(self.aggregates - self.non_storms, 'storm')}{others}"
                f" + {pluralize(self.dead_letters, 'dead letter')}{still_open}.{foreign}{self._missing_from_webhooks}"
            )
        are = "is" if abs(self.difference) == 1 else "are"
        what = f"{are} missing" if self.difference > 0 else "too many"
        expired = f" Retention has deleted {pluralize(self.expired, 'record')} of alerts." if self.expired else ""
        return (
            f"The counts do not match: {pluralize(abs(self.difference), 'alert')} {what}."
            f"{expired}{foreign}{self._missing_from_webhooks}"
        )

    @property
    def _missing_from_webhooks(self) -> str:
        left_out = pluralize(self.left_out, "alert")
        return f" Not counted: {left_out} that senders left out of webhooks (max_alerts)." if self.left_out else ""


async def audit(settings: Settings, config: Config, store: Store, wait: float = 30.0) -> AuditReport:
    """Counts both sides after waiting up to `wait` seconds until all that was published is folded.

    Raises `Retry` or `ActionRequired` if Kafka or Redis does not answer.
    """
    deadline = time.monotonic() + wait
    async with open_reader(settings) as reader:
        audit = _Audit(settings, config, store, reader)
        while True:
            # Before the wait: what arrives while earlier alerts are folded need not be folded itself.
            ends = await reader.end_offsets(settings.alerts_topic)
            unread = await audit.wait_folded(deadline)
            report = await audit.count(unread)
            if report.balanced:
                return report
            arrived = _behind(ends, await reader.end_offsets(settings.alerts_topic))
            if time.monotonic() >= deadline:
                return replace(report, unread=max(unread, arrived))
            # If alerts arrived or groups were closed during the count, count again.
            if arrived == unread == 0 and not await audit.closing():
                return report


class _Aggregate(NamedTuple):
    alerts: int
    storm: bool


class _Audit:
    def __init__(self, settings: Settings, config: Config, store: Store, reader: TopicReader) -> None:
        self._settings = settings
        self._series = SeriesReader(config)
        self._store = store
        self._reader = reader

    async def closing(self) -> bool:
        """Whether aggregates are being published right now: the last count may have seen half of that."""
        before = await self._reader.end_offsets(self._settings.storms_topic)
        await asyncio.sleep(POLL_INTERVAL)
        return before != await self._reader.end_offsets(self._settings.storms_topic)

    async def wait_folded(self, deadline: float) -> int:
        """Waits until what is in `alerts` now is folded; returns the number of records that are not."""
        for topic, positions in ((self._settings.alerts_topic, self._read), (self._settings.keyed_topic, self._folded)):
            ends = await self._reader.end_offsets(topic)
            while unread := _behind(await positions(), ends):
                if time.monotonic() >= deadline:
                    return unread
                await asyncio.sleep(POLL_INTERVAL)
        return 0

    async def count(self, unread: int) -> AuditReport:
        open_now = await self._open()
        begins = await self._reader.beginning_offsets(self._settings.alerts_topic)
        dead_letters, foreign_letters = await self._dead_letters(begins)
        alerts, left_out = await self._count_alerts(dead_letters)
        aggregates: dict[bytes, _Aggregate] = {}
        foreign = foreign_letters
        incidents = await open_incident_audit(self._settings, self._reader)
        async for record in self._reader.read(self._settings.storms_topic):
            if (aggregate := _aggregate(record)) is None:
                foreign += 1
            else:
                aggregates[record.key] = aggregate
                incidents.add(record)
        return AuditReport(
            alerts=alerts,
            left_out=left_out,
            aggregated=sum(aggregate.alerts for aggregate in aggregates.values()),
            dead_letters=len(dead_letters),
            # A group that was closed during the count is in both, under one name.
            open=sum(count for name, count in open_now.items() if name not in aggregates),
            aggregates=len(aggregates),
            non_storms=sum(not aggregate.storm for aggregate in aggregates.values()),
            unread=unread,
            expired=sum(begins.values()),
            foreign=foreign,
            incidents=await incidents.compare(),
        )

    async def _count_alerts(self, dead_letters: Collection[tuple[int, int]]) -> tuple[int, int]:
        """The number of alerts in `alerts`, and of those that senders left out.

        A dead letter is one, although a configuration that was changed since may find several alerts in its record:
        after a redrive, these are in another record.
        """
        count = left_out = 0
        async for record in self._reader.read(self._settings.alerts_topic):
            if (record.partition, record.offset) in dead_letters:
                count += 1
                continue
            try:
                found = self._series.parse(record.value, record.headers, record.timestamp)
            except Poison:
                count += 1
            else:
                count += len(found)
                left_out += sum(alert.left_out for _, alert in found)
        return count, left_out

    async def _dead_letters(self, begins: Mapping[int, int]) -> tuple[set[tuple[int, int]], int]:
        """Partition and offset of the records of `alerts` that are dead letters; the number of letters of others."""
        topic = self._settings.alerts_topic
        origins = [
            dlq.origin_in(letter, topic)
            async for letter in self._reader.read(self._settings.alerts_dlq_topic)
            if not dlq.is_redrive_mark(letter)
        ]
        ends = await self._reader.end_offsets(topic)
        ours = [origin for origin in origins if origin is not None and origin[1] < ends.get(origin[0], 0)]
        retained = {(partition, offset) for partition, offset in ours if offset >= begins.get(partition, 0)}
        return retained, len(origins) - len(ours)

    async def _read(self) -> dict[int, int]:
        group = self._settings.consumer_group("intake")
        committed = await read_committed(self._settings, group, self._settings.alerts_topic)
        return {partition: offset for partition, (offset, _) in committed.items()}

    async def _folded(self) -> dict[int, int]:
        state = await self._store.load()
        return {} if state is None else {partition: at.offset for partition, at in state.positions.items()}

    async def _open(self) -> dict[bytes, int]:
        """Number of alerts of each open aggregate, by the name that it will have."""
        version = await self._store.version()
        if version is None:
            return {}
        result = {}
        for group in await self._store.open_buckets(version):
            for segment in segments(group.buckets, version.windows, version.rebuild):
                if version.rebuild is None or segment.start >= version.rebuild.closed_before:
                    name = aggregate_name(group.meta, segment.start, version.windows.gap).encode()
                    result[name] = sum(bucket.alerts for bucket in segment.buckets)
        return result


def _behind(positions: Mapping[int, int], ends: Mapping[int, int]) -> int:
    return sum(max(0, end - positions.get(partition, 0)) for partition, end in ends.items())


def _aggregate(record: ConsumerRecord) -> _Aggregate | None:
    """What a record of `storms` counts for; None if stormfold did not write it."""
    try:
        manifest = decode_untrusted(msgspec.json.decode, record.value)
        name, spec = manifest["metadata"]["name"], manifest["spec"]
        alerts, storm = spec["alertCount"], spec["class"] == "Storm"
    except (KeyError, TypeError, Malformed):
        return None
    # Emit and correlate also refuse a copy under another key.
    known = isinstance(name, str) and name.encode() == record.key
    return _Aggregate(alerts, storm) if record.key and known and type(alerts) is int and alerts > 0 else None
