"""Reads the alerts of a range, as they were keyed or parsed again, and folds them into aggregates."""

from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from typing import NamedTuple

from aiokafka import ConsumerRecord

from stormfold.decoding import Malformed, Poison
from stormfold.errors import ActionRequired
from stormfold.eventtime import PartitionPair
from stormfold.in_memory import InMemoryFold
from stormfold.kafka.committed import read_committed
from stormfold.keyed_record import ALERT, HEAD, LATE, MARKS, decode_marks, encode_alert
from stormfold.merge import Record
from stormfold.replay.range import Range
from stormfold.series import SeriesReader
from stormfold.storm import Aggregate

CHUNK_SIZE = 65_536
"""Event times in one array."""

_ALERT, _MARKS = bytes((ALERT,)), bytes((MARKS,))


class Batch(NamedTuple):
    """Records of one partition that were read together."""

    partition: int
    records: Sequence[Record]
    watermark: int
    """No alert before this time follows, in any partition."""


async def fold(
    wanted: Range, in_memory: InMemoryFold, batches: AsyncGenerator[Batch, None]
) -> AsyncIterator[Aggregate]:
    """The aggregates of the alerts, as they become final: those of the range, and some before and after it."""
    final = wanted.horizon - wanted.config.windows.grace
    closed_at = 0
    async with aclosing(batches):
        async for partition, records, watermark in batches:
            in_memory.fold(partition, records)
            if watermark - closed_at >= wanted.config.windows.gap:
                closed_at = watermark
                for aggregate in in_memory.close(min(watermark, final)):
                    yield aggregate
    for aggregate in in_memory.close(final):
        yield aggregate


async def read_keyed(wanted: Range) -> AsyncGenerator[Batch, None]:
    """The alerts of the range as they were keyed, with the event times that decided the aggregates."""
    topic = wanted.settings.keyed_topic
    # One slice earlier: the first copy of an alert that intake sent twice, because it crashed, may be there.
    starts = await wanted.reader.offsets_for_time(
        topic, wanted.rebuild.rebuild_from - wanted.config.windows.slice_length
    )
    reached = dict.fromkeys(wanted.partitions, 0)
    marks: dict[PartitionPair, int] = {}
    alerts_partitions = 0
    async for partition, records in _interleave(wanted, topic, starts, await wanted.reader.end_offsets(topic), reached):
        for record in records:
            if record.value is not None and record.value[:1] == _MARKS:
                with suppress(Malformed):
                    decoded = decode_marks(record.value)
                    alerts_partitions = max(alerts_partitions, decoded.partitions)
                    marks |= {(partition, alerts): time for alerts, time in decoded.progress.items()}
        progress = [marks.get((partition, alerts), 0) for alerts in range(alerts_partitions)]
        reached[partition] = max(reached[partition], min(progress, default=0))
        yield Batch(partition, records, min(reached.values()) - wanted.disorder)


class EventTimes:
    """Event times by partition and offset of `alerts`. They need eight bytes for each record in between."""

    def __init__(self) -> None:
        self._chunks: dict[tuple[int, int], array[int]] = {}
        self.extents: dict[int, tuple[int, int]] = {}
        """First and last offset with an event time, by partition."""

    def add(self, partition: int, offset: int, time: int, late: bool) -> None:
        """Adds an event time, unless there is one for this offset."""
        chunk = self._chunks.setdefault((partition, offset // CHUNK_SIZE), array("q", [-1]) * CHUNK_SIZE)
        if chunk[offset % CHUNK_SIZE] < 0:
            chunk[offset % CHUNK_SIZE] = time * 2 + late
            first, last = self.extents.get(partition, (offset, offset))
            self.extents[partition] = (min(first, offset), max(last, offset))

    def get(self, partition: int, offset: int) -> tuple[int, bool] | None:
        """Event time, and whether the record was late. None if there is none."""
        chunk = self._chunks.get((partition, offset // CHUNK_SIZE))
        found = -1 if chunk is None else chunk[offset % CHUNK_SIZE]
        return None if found < 0 else (found // 2, bool(found % 2))

    def before(self, partition: int, offset: int) -> Iterator[int]:
        """Event times of the records before an offset."""
        first, last = self.extents.get(partition, (0, -1))
        found = (self.get(partition, at) for at in range(first, min(offset, last + 1)))
        return (event_time[0] for event_time in found if event_time is not None)


async def read_event_times(wanted: Range) -> tuple[Range, EventTimes]:
    """The event times of the alerts that matter, and the part of the range whose alerts are all still in `alerts`.

    `alerts` may be kept shorter than the keyed topic.
    """
    settings, topic = wanted.settings, wanted.settings.alerts_topic
    committed = await read_committed(settings, settings.consumer_group("intake"), topic)
    times = EventTimes()
    async for _, records, _ in read_keyed(wanted):
        for record in records:
            value = record.value or b""
            if value[:1] != _ALERT or len(value) <= HEAD.size:
                continue
            _, flags, time, partition, offset, _ = HEAD.unpack_from(value)
            # If the topic was recreated, smaller offsets are of the topic that was deleted.
            offset -= committed[partition][1].offset_base if partition in committed else 0
            if offset >= 0 and wanted.rebuild.rebuild_from <= time < wanted.end:
                times.add(partition, offset, time, bool(flags & LATE))
    begins = await wanted.reader.beginning_offsets(topic)
    lost_until = max((time for p, begin in begins.items() for time in times.before(p, begin)), default=None)
    return wanted if lost_until is None else wanted.without(lost_until), times


class _Rekeyed(NamedTuple):
    """A keyed record of an alert that was parsed again."""

    offset: int
    value: bytes


async def read_parsed(wanted: Range, times: EventTimes) -> AsyncGenerator[Batch, None]:
    """The alerts of the range, parsed again under the configuration, with their original event times."""
    topic = wanted.settings.alerts_topic
    series = SeriesReader(wanted.config)
    begins = await wanted.reader.beginning_offsets(topic)
    starts = {partition: max(first, begins[partition]) for partition, (first, _) in times.extents.items()}
    ends = {partition: last + 1 for partition, (_, last) in times.extents.items()}
    reached = dict.fromkeys(starts, 0)
    async for partition, records in _interleave(wanted, topic, starts, ends, reached):
        rekeyed: list[_Rekeyed] = []
        for record in records:
            event_time = times.get(partition, record.offset)
            if event_time is None:
                # The record was a dead letter, or its time does not matter.
                continue
            time, late = event_time
            reached[partition] = max(reached[partition], time)
            try:
                alerts = series.parse(record.value, record.headers, time)
            except Poison as reason:
                raise ActionRequired(
                    f"{topic}-{partition}-{record.offset} is not the record that was keyed: {reason}"
                ) from None
            for index, (keyed, alert) in enumerate(alerts):
                value = encode_alert(
                    keyed.body_at(time), time=time, resolved=alert.resolved, late=late, partition=partition,
                    offset=record.offset, index=index, not_qualified=not keyed.qualifies(alert.starts_at, time),
                )  # fmt: skip
                rekeyed.append(_Rekeyed(record.offset, value))
        yield Batch(partition, rekeyed, min(reached.values()) - wanted.disorder)


async def _interleave(
    wanted: Range, topic: str, starts: Mapping[int, int], ends: Mapping[int, int], reached: dict[int, int]
) -> AsyncIterator[tuple[int, list[ConsumerRecord]]]:
    """Reads partitions in parallel, always the one that is furthest behind, so that few groups are open at a time.

    `reached` has the event time of each partition: the caller advances it. A partition is read until that is past the
    range, or until its end.
    """
    past = wanted.end + wanted.disorder
    total = sum(max(0, ends[partition] - starts[partition]) for partition in reached)
    async with AsyncExitStack() as stack:
        polls: dict[int, AsyncGenerator[list[ConsumerRecord], None]] = {}
        for partition in reached:
            reading = wanted.reader.read_batches(topic, {partition: starts[partition]}, {partition: ends[partition]})
            polls[partition] = await stack.enter_async_context(aclosing(reading))
        while behind := [partition for partition, time in reached.items() if time < past]:
            partition = min(behind, key=reached.__getitem__)
            records = await anext(polls[partition], None)
            if records is None:
                reached[partition] = past
            else:
                wanted.on_progress(topic, len(records), total)
                yield partition, records
