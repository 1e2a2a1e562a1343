"""Everything that correlate reads: commits, incidents and storms, in the order that makes the result exact."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from aiokafka import ConsumerRecord
from aiokafka.admin import AIOKafkaAdminClient

from stormfold import metrics
from stormfold.correlation import Added, Correlation, RecordPlace
from stormfold.decoding import Malformed
from stormfold.errors import ActionRequired, Retry
from stormfold.incident_manifest import decode_manifest as decode_incident
from stormfold.kafka.client import cluster_id, open_admin
from stormfold.kafka.committed import CommitMetadata, Committed, committed_offsets, newest_closed_before
from stormfold.kafka.log_reader import LogReader, open_log_reader
from stormfold.kafka.reader import open_reader
from stormfold.kafka.transactions import describe
from stormfold.manifest import decode_manifest
from stormfold.positions import Position, RecordTime, contradicts
from stormfold.settings import Settings

log = structlog.get_logger(__name__)

STAGE = "correlate"
COMMIT_INTERVAL = 5.0
"""Seconds between two commits while no storm is published and none becomes final."""


Keep = Callable[[], Awaitable[None]]
"""Called after each step of long work: keeps the lease. Raises `Retry` if it was lost."""


class MorePartitions(Exception):
    """The topic has got partitions: what was read is dropped, and all are read."""


class CorrelateInput:
    """What one worker has read since it has the lease."""

    def __init__(
        self, settings: Settings, admin: AIOKafkaAdminClient, reader: LogReader, committed: Committed,
        positions: dict[int, int], keep: Keep, pipeline: str,
    ) -> None:  # fmt: skip
        self._settings = settings
        self.pipeline = pipeline
        """Cluster and prefix of consumer groups: no other pipeline has both."""
        self._admin = admin
        self._reader = reader
        self._keep = keep
        self._committed = committed
        self.correlation = Correlation()
        self.positions = positions
        """Next offset of each partition of `storms` to read."""
        self.lag: dict[int, int] = {}
        """Records of each partition that were not read at the last look."""
        self._timestamps = {partition: metadata.timestamp for partition, (_, metadata) in committed.items()}
        """Timestamp of the record before the position, by partition."""
        self._to_verify = {
            partition: Position(offset, metadata.timestamp) for partition, (offset, metadata) in committed.items()
        }
        self._closed_before: int | None = None
        self._committed_at = float("-inf")

    async def know_incidents(self) -> None:
        """Reads `incidents` whole. The commits must have been read before: another worker may publish, then commit."""
        topic = self._settings.incidents_topic
        async with open_reader(self._settings) as reader:
            ends, stable = await reader.log_end_offsets(topic), await reader.end_offsets(topic)
            if held := {partition: offset for partition, offset in stable.items() if offset < ends[partition]}:
                raise Retry(*describe(topic, held))
            async for record in reader.read(topic):
                try:
                    self.correlation.know(decode_incident(record.value))
                except Malformed as error:
                    # Others may write to the topic, too.
                    log.warning("not an incident", record=_place(record), error=str(error))
                await self._keep()

    async def read(self) -> int | None:
        """Reads `storms` up to its end; returns the time before which every storm has been read (ms), None at first."""
        committed = await committed_offsets(
            self._admin, self._settings.consumer_group("fold"), self._settings.keyed_topic
        )
        times = [time for time in (newest_closed_before(committed), self._closed_before) if time is not None]
        if await self._reader.has_more_partitions():
            raise MorePartitions
        # Only now: everything that begins before `closed_before` is before these ends.
        ends = await self._reader.end_offsets()
        async for records in self._reader.read(ends):
            for record in records:
                self._add(record)
            await self._keep()
        self.positions = await self._reader.positions()
        self._closed_before = max(times, default=None)
        self.lag = {partition: max(0, end - self.positions[partition]) for partition, end in ends.items()}
        return self._closed_before

    async def commit(self) -> None:
        """Commits the positions, each with the offset from which a later reader needs the records."""
        needed = self.correlation.needed(self.positions)
        before = {p: (offset, metadata.needed) for p, (offset, metadata) in self._committed.items()}
        if {p: (offset, needed[p]) for p, offset in self.positions.items()} == before and not self._is_due():
            return
        offsets = {}
        for partition, offset in self.positions.items():
            timestamp = self._timestamps.get(partition, -1)
            metadata = CommitMetadata(closed_before=self._closed_before, needed=needed[partition], timestamp=timestamp)
            offsets[partition] = offset, metadata
        await self._reader.commit({p: (offset, metadata.encode()) for p, (offset, metadata) in offsets.items()})
        self._committed, self._committed_at = offsets, time.monotonic()

    def _is_due(self) -> bool:
        """Whether the commit shall show how far time is, although nothing was published."""
        return time.monotonic() - self._committed_at >= COMMIT_INTERVAL

    def _add(self, record: ConsumerRecord) -> None:
        position = self._to_verify.get(record.partition)
        if position is not None and contradicts(RecordTime(record.offset, record.timestamp), position):
            raise _recreated(self._settings, record.partition)
        committed, _ = self._committed.get(record.partition, (0, None))
        if record.offset >= committed:
            self._timestamps[record.partition] = record.timestamp
        try:
            aggregate = decode_manifest(record.value)
        except Malformed as error:
            # Emit makes it a dead letter.
            log.debug("not a storm", record=_place(record), error=str(error))
            return
        if aggregate.name.encode() != record.key:
            return
        added = self.correlation.add(aggregate, RecordPlace(record.partition, record.offset, record.timestamp))
        if added is Added.LATE and record.offset >= committed:
            metrics.INCIDENT_STORMS_LATE.inc()
            log.info("storm is in no incident: its incident is published", storm=aggregate.name, record=_place(record))


@asynccontextmanager
async def open_input(settings: Settings, keep: Keep) -> AsyncIterator[CorrelateInput]:
    """Opens the input, with all incidents read and no storms yet. Raises `Retry` or `ActionRequired`."""
    group, topic = settings.consumer_group(STAGE), settings.storms_topic
    async with open_admin(settings) as admin, open_log_reader(settings, topic, group) as reader:
        # In this order: a commit that is newer than the incidents that were read hides storms that they took.
        committed = await committed_offsets(admin, group, topic)
        begins, ends = await reader.beginning_offsets(), await reader.end_offsets()
        starts = {}
        for partition, begin in begins.items():
            offset, metadata = committed.get(partition, (0, CommitMetadata()))
            if offset > ends[partition]:
                raise _recreated(settings, partition)
            needed = offset if metadata.needed is None else metadata.needed
            # The record before the position shows whether this is the partition that was read.
            starts[partition] = max(begin, min(needed, offset - 1 if metadata.timestamp >= 0 else offset))
        pipeline = f"{await cluster_id(settings)}/{settings.group_prefix}"
        found = CorrelateInput(settings, admin, reader, committed, starts, keep, pipeline)
        await found.know_incidents()
        reader.start(starts)
        yield found


def _recreated(settings: Settings, partition: int) -> ActionRequired:
    return ActionRequired(
        f"{settings.storms_topic}-{partition} seems to have been deleted and created again: it does not have the record"
        " that was read",
        "if that was meant, run `stormfold topics --reset-positions`; until then no incidents are published",
    )


def _place(record: ConsumerRecord) -> str:
    return f"{record.topic}-{record.partition}-{record.offset}"
