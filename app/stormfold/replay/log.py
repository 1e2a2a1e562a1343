"""The log of a range: its alerts as they were keyed and stamped, or understood anew, and the storms that they make."""

from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from aiokafka import ConsumerRecord

from stormfold.config import Config
from stormfold.decoding import Malformed, Poison
from stormfold.errors import ActionRequired
from stormfold.eventtime import PartitionPair
from stormfold.in_memory import InMemoryFold
from stormfold.kafka.committed import CommitMetadata, newest_closed, newest_metadata, read_committed
from stormfold.kafka.reader import TopicReader
from stormfold.keyed_record import (
    ALERT,
    HEAD,
    LATE,
    MARKS,
    decode_marks,
    encode_alert,
)
from stormfold.merge import Record
from stormfold.series import SeriesReader
from stormfold.settings import Settings
from stormfold.stages.state_version import keyed_partitions
from stormfold.storm import Aggregate
from stormfold.times import format_duration, format_timestamp
from stormfold.window import Rebuild, Windows

BEFORE, AFTER = 5, 2
"""Slices around the range that count. A storm lasts 1.5 slices; where one begins is certain from three slices after
what was read first; and those that begin before the range, and reach into it, must be certain too."""
SLACK = 900_000
"""How far alerts may be out of order (ms). The grace of the time is not known; this only costs memory."""
CHUNK = 65_536
"""Stamps that are kept together."""

_ALERT, _MARKS = bytes((ALERT,)), bytes((MARKS,))

Tell = Callable[[str, int, int], None]
"""Takes the topic that is read, how many more records were read of it, and how many it has at most."""


class Span(NamedTuple):
    """Which storms: those whose first bucket begins from `begin` until before `end`."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Range:
    """A range, as far as it can be replayed, and what must be read for it."""

    settings: Settings
    config: Config
    tail: TopicReader
    tell: Tell
    span: Span
    partitions: range
    """Of the keyed topic: those that the epoch knows."""
    horizon: int
    """No storm that is final at it is still open."""
    since: int | None = None
    """S: what is before it was counted under other windows, and does not count again (ms). None if nothing is to be
    as it was counted, or all was under these."""

    @property
    def rebuild(self) -> Rebuild:
        """From where on storms are certain: early enough for those that reach into the range."""
        slice = self.config.windows.slice_length
        return Rebuild.of(self.span.begin - (BEFORE - 3) * slice, self.config.windows)

    @property
    def until(self) -> int:
        """No alert that is stamped from here on counts."""
        return self.span.end + AFTER * self.config.windows.slice_length

    @property
    def slack(self) -> int:
        """After an alert or a mark, none comes of the same partition that is so much older."""
        return max(SLACK, self.config.windows.grace)

    def holds(self, time: int) -> bool:
        """Whether a storm whose first alert is at `time` belongs to the range."""
        return self.span.begin <= self.config.windows.bucket(time) < self.span.end and time >= (self.since or 0)

    def cut(self, edge: int) -> "Range":
        """The same without the storms that may have alerts before `edge`, which is where the log begins."""
        first = edge + self.config.windows.grace + BEFORE * self.config.windows.slice_length
        span = Span(max(self.span.begin, first), self.span.end)
        if span.begin >= span.end:
            raise ActionRequired(
                f"the log begins too late: what is certain from it begins at {format_timestamp(first)}"
            )
        return replace(self, span=span)


async def open_range(
    settings: Settings, config: Config, wanted: Span, tail: TopicReader, tell: Tell, *, as_counted: bool = False
) -> Range:
    """The part of a range that is closed, and still in the log with all that is around it. `as_counted`: and that was
    counted under the configured windows. Raises `Retry` or `ActionRequired`."""
    committed = await read_committed(settings, settings.consumer_group("fold"), settings.keyed_topic)
    closed = newest_closed(committed)
    if closed is None:
        raise ActionRequired("no storm has been closed yet, so there is nothing to replay", "start a worker")
    since = None
    if as_counted:
        note = newest_metadata(committed)
        wanted, since = _same_windows(config.windows, wanted, note)
        # A storm that begins in the bucket of C may be open where C is S, which lies inside one.
        config, closed = replace(config, windows=note.w or config.windows), config.windows.bucket(closed)
    span = Span(wanted.begin, min(wanted.end, closed))
    if span.begin >= span.end:
        raise ActionRequired(
            f"what begins from {format_timestamp(closed)} on may still be open", "replay what is before"
        )
    horizon = max((note.h for _, note in committed.values() if note.h is not None), default=closed)
    partitions = await keyed_partitions(settings, committed)
    result = Range(settings, config, tail, tell, span, partitions, horizon, since)
    edge = await _edge(result)
    return result if edge is None else result.cut(edge)


def _same_windows(windows: Windows, wanted: Span, note: CommitMetadata) -> tuple[Span, int | None]:
    """The part of a range that the configured windows have counted, and S. Under any other they would give storms other
    names, so their alerts would be counted twice. Raises `ActionRequired` where there is none."""
    if note.s is not None and wanted.end <= note.s:
        raise ActionRequired(
            f"what is before {format_timestamp(note.s)} was counted under other windows than those that hold now",
            "its storms can't be published again; --dry-run tells what these windows make of it",
        )
    if note.w is not None and (note.w.gap, note.w.slice_length) != (windows.gap, windows.slice_length):
        raise ActionRequired(
            f"the storms were counted under other windows ({_said(note.w)}) than are configured ({_said(windows)}), so "
            "they would come back under other names",
            "replay with the configuration of the workers (--config or STORMFOLD_CONFIG), or with --dry-run",
        )
    begin = wanted.begin if note.s is None else max(wanted.begin, windows.bucket(note.s))
    return Span(begin, wanted.end), note.s


def _said(windows: Windows) -> str:
    return f"gap {format_duration(windows.gap)}, slice {format_duration(windows.slice_length)}"


async def _edge(of: Range) -> int | None:
    """Where the log begins, if that is after what should be read: what was appended before is gone."""
    topic, tail = of.settings.keyed_topic, of.tail
    begins, ends = await tail.begins(topic), await tail.ends(topic)
    since = await tail.since(topic, of.rebuild.rebuild_from)
    cut = [p for p in of.partitions if begins[p] > 0 and since[p] == begins[p]]
    found = [(await tail.first_from(topic, p, begins[p])).timestamp if begins[p] < ends[p] else of.horizon for p in cut]
    return max(found, default=None)


class Poll(NamedTuple):
    """Records of one partition, and what is certain after them."""

    partition: int
    records: Sequence[Record]
    watermark: int
    """No alert before it is still to come, of any partition."""


async def storms(of: Range, refold: InMemoryFold, polls: AsyncIterator[Poll]) -> AsyncIterator[Aggregate]:
    """The storms that alerts make, as they become final: those of the range, and some that begin before or after."""
    final = of.horizon - of.config.windows.grace
    looked = 0
    async for partition, records, watermark in polls:
        refold.fold(partition, records)
        if watermark - looked >= of.config.windows.gap:
            looked = watermark
            for storm in refold.close(min(watermark, final)):
                yield storm
    for storm in refold.close(final):
        yield storm


async def keyed(of: Range) -> AsyncIterator[Poll]:
    """The alerts of the range as they were keyed and stamped: what decided the storms then."""
    topic = of.settings.keyed_topic
    # A slice early: what was sent twice, for an intake that crashed, has its first copy there.
    since = await of.tail.since(topic, of.rebuild.rebuild_from - of.config.windows.slice_length)
    reached = dict.fromkeys(of.partitions, 0)
    marks: dict[PartitionPair, int] = {}
    alerts_partitions = 0
    async for partition, records in _together(of, topic, since, await of.tail.ends(topic), reached):
        for record in records:
            if record.value is not None and record.value[:1] == _MARKS:
                with suppress(Malformed):
                    said = decode_marks(record.value)
                    alerts_partitions = max(alerts_partitions, said.partitions)
                    marks |= {(partition, alerts): time for alerts, time in said.progress.items()}
        cells = [marks.get((partition, alerts), 0) for alerts in range(alerts_partitions)]
        reached[partition] = max(reached[partition], min(cells, default=0))
        yield Poll(partition, records, min(reached.values()) - of.slack)


class Stamps:
    """Event times by partition and offset of `alerts`: eight bytes for each record between the first and the last."""

    def __init__(self) -> None:
        self._chunks: dict[tuple[int, int], array[int]] = {}
        self.extents: dict[int, tuple[int, int]] = {}
        """First and last stamped offset, by partition."""

    def put(self, partition: int, offset: int, time: int, late: bool) -> None:
        """Keeps a stamp; what was stamped before stays."""
        chunk = self._chunks.setdefault((partition, offset // CHUNK), array("q", [-1]) * CHUNK)
        if chunk[offset % CHUNK] < 0:
            chunk[offset % CHUNK] = time * 2 + late
            first, last = self.extents.get(partition, (offset, offset))
            self.extents[partition] = (min(first, offset), max(last, offset))

    def before(self, partition: int, offset: int) -> Iterator[int]:
        """Event times of what was stamped before an offset."""
        first, last = self.extents.get(partition, (0, -1))
        found = (self.get(partition, at) for at in range(first, min(offset, last + 1)))
        return (stamp[0] for stamp in found if stamp is not None)

    def get(self, partition: int, offset: int) -> tuple[int, bool] | None:
        """Event time, and whether the record was late; None if it was not stamped."""
        chunk = self._chunks.get((partition, offset // CHUNK))
        found = -1 if chunk is None else chunk[offset % CHUNK]
        return None if found < 0 else (found // 2, bool(found % 2))


async def read_stamps(of: Range) -> tuple[Range, Stamps]:
    """The stamps of the alerts that count, and the part of the range whose alerts are all still in `alerts`: that may
    keep less than the keyed topic."""
    intake = of.settings.consumer_group("intake")
    bases = {
        p: note.b for p, (_, note) in (await read_committed(of.settings, intake, of.settings.alerts_topic)).items()
    }
    stamps = Stamps()
    first = of.rebuild.rebuild_from
    async for _, records, _ in keyed(of):
        for record in records:
            value = record.value or b""
            if value[:1] != _ALERT or len(value) <= HEAD.size:
                continue
            _, flags, time, partition, offset, _ = HEAD.unpack_from(value)
            # Before the base is what an `alerts` had that was deleted.
            offset -= bases.get(partition, 0)
            if offset >= 0 and first <= time < of.until:
                stamps.put(partition, offset, time, bool(flags & LATE))
    begins = await of.tail.begins(of.settings.alerts_topic)
    lost = max((time for p, begin in begins.items() for time in stamps.before(p, begin)), default=None)
    return of if lost is None else of.cut(lost), stamps


@dataclass(slots=True)
class _Again:
    """A keyed record made anew."""

    offset: int
    value: bytes | None


async def understood(of: Range, stamps: Stamps) -> AsyncIterator[Poll]:
    """The alerts of the range as the configuration understands them, at the times that they were stamped with then."""
    topic = of.settings.alerts_topic
    reader = SeriesReader(of.config)
    begins = await of.tail.begins(topic)
    starts = {partition: max(first, begins[partition]) for partition, (first, _) in stamps.extents.items()}
    ends = {partition: last + 1 for partition, (_, last) in stamps.extents.items()}
    reached = dict.fromkeys(starts, 0)
    async for partition, records in _together(of, topic, starts, ends, reached):
        again: list[_Again] = []
        for record in records:
            stamp = stamps.get(partition, record.offset)
            if stamp is None:
                # Poison, or of another time.
                continue
            time, late = stamp
            reached[partition] = max(reached[partition], time)
            try:
                alerts = reader.parse(record.value, record.headers, time)
            except Poison as reason:
                raise ActionRequired(
                    f"{topic}-{partition}-{record.offset} is not the record that was stamped: {reason}"
                ) from None
            again += [
                _Again(
                    record.offset,
                    encode_alert(
                        alert.body_at(time), time=time, resolved=resolved, late=late, partition=partition,
                        offset=record.offset, index=index,
                    ),
                )
                for index, (alert, resolved) in enumerate(alerts)
            ]  # fmt: skip
        yield Poll(partition, again, min(reached.values()) - of.slack)


async def _together(
    of: Range, topic: str, starts: Mapping[int, int], ends: Mapping[int, int], reached: dict[int, int]
) -> AsyncIterator[tuple[int, list[ConsumerRecord]]]:
    """Reads partitions side by side, always the one that is furthest behind, so that little is open at a time.

    `reached` is the event time that each of them has come to: the caller moves it on. One that has come past the range,
    or to its end, is not read any further.
    """
    beyond = of.until + of.slack
    most = sum(max(0, ends[partition] - starts[partition]) for partition in reached)
    async with AsyncExitStack() as stack:
        readers: dict[int, AsyncGenerator[list[ConsumerRecord], None]] = {}
        for partition in reached:
            polls = of.tail.polls(topic, {partition: starts[partition]}, {partition: ends[partition]})
            readers[partition] = await stack.enter_async_context(aclosing(polls))
        while behind := [partition for partition, time in reached.items() if time < beyond]:
            partition = min(behind, key=reached.__getitem__)
            records = await anext(readers[partition], None)
            if records is None:
                reached[partition] = beyond
            else:
                of.tell(topic, len(records), most)
                yield partition, records
