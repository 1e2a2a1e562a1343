"""The range of a replay: which aggregates belong to it, and how much of the log must be read for them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from stormfold.config import Config
from stormfold.errors import ActionRequired
from stormfold.kafka.committed import CommitMetadata, newest_closed_before, newest_metadata, read_committed
from stormfold.kafka.reader import TopicReader
from stormfold.settings import Settings
from stormfold.stages.state_version import keyed_partitions
from stormfold.times import format_duration, format_timestamp
from stormfold.window import Rebuild, Windows

SLICES_BEFORE, SLICES_AFTER = 5, 2
"""Slices around the range that are read. An aggregate lasts up to 1.5 slices, its beginning is certain from three
slices after the first alert that was read, and that must hold for aggregates that begin before the range too."""
MIN_DISORDER = 900_000
"""How far alerts of a partition may be out of order (ms). The grace at the time is unknown; this costs only memory."""

OnProgress = Callable[[str, int, int], None]
"""Called with a topic, the number of records that were just read of it, and the total at most."""


class Span(NamedTuple):
    """Aggregates whose first bucket begins at or after `begin` and before `end`."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Range:
    """The part of a range that can be replayed, and what must be read for it."""

    settings: Settings
    config: Config
    reader: TopicReader
    on_progress: OnProgress
    span: Span
    partitions: range
    """Partitions of the keyed topic that are part of the state version."""
    horizon: int
    """Every aggregate that is final at this horizon is closed."""
    windows_since: int | None = None
    """Alerts before it were counted under other windows and are skipped. None if there are none, or if all count."""

    @property
    def rebuild(self) -> Rebuild:
        """From where aggregates are certain: early enough for those that reach into the range."""
        earlier = (SLICES_BEFORE - 3) * self.config.windows.slice_length
        return Rebuild.of(self.span.begin - earlier, self.config.windows)

    @property
    def end(self) -> int:
        """Alerts with this event time or a later one do not matter."""
        return self.span.end + SLICES_AFTER * self.config.windows.slice_length

    @property
    def disorder(self) -> int:
        """Alerts of a partition follow later ones by at most this time."""
        return max(MIN_DISORDER, self.config.windows.grace)

    def contains(self, first_seen: int) -> bool:
        """Whether an aggregate whose first alert has this time belongs to the range."""
        bucket = self.config.windows.bucket(first_seen)
        return self.span.begin <= bucket < self.span.end and first_seen >= (self.windows_since or 0)

    def without(self, lost_until: int) -> "Range":
        """The range without aggregates that may have alerts up to `lost_until`, which the log no longer has."""
        first = lost_until + self.config.windows.grace + SLICES_BEFORE * self.config.windows.slice_length
        span = Span(max(self.span.begin, first), self.span.end)
        if span.begin >= span.end:
            raise ActionRequired(
                f"the log begins too late: it is complete for storms that begin after {format_timestamp(first)}",
                "choose a range that begins after that",
            )
        return replace(self, span=span)


async def open_range(
    settings: Settings, config: Config, wanted: Span, reader: TopicReader, on_progress: OnProgress, *,
    as_counted: bool = False,
) -> Range:  # fmt: skip
    """The part of a range that is closed and completely in the log. Raises `Retry` or `ActionRequired`.

    With `as_counted` only the part that was counted under the configured windows.
    """
    committed = await read_committed(settings, settings.consumer_group("fold"), settings.keyed_topic)
    closed = newest_closed_before(committed)
    if closed is None:
        raise ActionRequired("no storm has been closed yet, so there is nothing to replay", "start a worker")
    windows_since = None
    if as_counted:
        metadata = newest_metadata(committed)
        wanted, windows_since = _counted_under(config.windows, wanted, metadata)
        # Where it is `windows_since` it lies inside a bucket, and an aggregate that begins in this one may be open.
        config, closed = replace(config, windows=metadata.windows or config.windows), config.windows.bucket(closed)
    span = Span(wanted.begin, min(wanted.end, closed))
    if span.begin >= span.end:
        raise ActionRequired(
            f"storms that begin after {format_timestamp(closed)} may still be open", "choose an earlier range"
        )
    horizon = max((m.horizon for _, m in committed.values() if m.horizon is not None), default=closed)
    partitions = await keyed_partitions(settings, committed)
    result = Range(settings, config, reader, on_progress, span, partitions, horizon, windows_since)
    lost_until = await _lost_until(result)
    return result if lost_until is None else result.without(lost_until)


def _counted_under(windows: Windows, wanted: Span, metadata: CommitMetadata) -> tuple[Span, int | None]:
    """The part of a range that was counted under `windows`, and `windows_since`. Raises `ActionRequired` without one.

    Under other windows aggregates have other names, so their alerts would be counted twice.
    """
    since, counted = metadata.windows_since, metadata.windows
    if since is not None and wanted.end <= since:
        raise ActionRequired(
            f"alerts before {format_timestamp(since)} were counted under other windows than the present ones",
            "their storms cannot be published again; use --dry-run to see what the present windows make of them",
        )
    if counted is not None and (counted.gap, counted.slice_length) != (windows.gap, windows.slice_length):
        raise ActionRequired(
            f"the storms were counted under other windows ({_format(counted)}) than are configured"
            f" ({_format(windows)}), so they would get other names",
            "use the configuration of the workers (--config or STORMFOLD_CONFIG), or --dry-run",
        )
    return Span(wanted.begin if since is None else max(wanted.begin, windows.bucket(since)), wanted.end), since


def _format(windows: Windows) -> str:
    return f"gap {format_duration(windows.gap)}, slice {format_duration(windows.slice_length)}"


async def _lost_until(wanted: Range) -> int | None:
    """The time up to which retention has deleted records that should be read; None if it has deleted none."""
    topic, reader = wanted.settings.keyed_topic, wanted.reader
    begins, ends = await reader.beginning_offsets(topic), await reader.end_offsets(topic)
    since = await reader.offsets_for_time(topic, wanted.rebuild.rebuild_from)
    firsts = [
        await reader.first_record(topic, p, begins[p], ends[p])
        for p in wanted.partitions
        if begins[p] > 0 and since[p] == begins[p]
    ]
    times = [wanted.horizon if first is None else first.timestamp for first in firsts]
    return max(times, default=None)
