"""Event time without I/O: buckets of one gap, runs of buckets, clock cuts, and what is final at a watermark.

All times are milliseconds since the epoch. A bucket is named by its start, a multiple of `gap`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

CloseReason = Literal["Inactivity", "Slice"]


@dataclass(frozen=True, slots=True)
class Windows:
    """The window settings, all in milliseconds. `slice` is a multiple of `gap` and at least twice it."""

    gap: int = 60_000
    """Longest silence inside a storm."""
    grace: int = 10_000
    """How far clocks may disagree, and how long late alerts are waited for."""
    slice: int = 300_000
    """A storm that goes on is cut on multiples of this, so that nobody waits for its end to hear of it."""

    def bucket(self, time: int) -> int:
        """Start of the bucket that holds `time`."""
        return time - time % self.gap

    def first_cut(self, start: int) -> int:
        """The first multiple of `slice` that is at least half a slice after a run that starts at `start`."""
        return self._multiple_from(start + (self.slice + 1) // 2)

    def _multiple_from(self, time: int) -> int:
        return -(-time // self.slice) * self.slice


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Where a new epoch began to read again, in event time (milliseconds)."""

    begin: int
    """B: alerts before it are skipped, so a run close behind it may have a hidden beginning."""
    closed: int
    """C: every storm that begins before it had been closed and published."""

    @classmethod
    def of(cls, closed: int, windows: Windows) -> "Rebuild":
        """B lies three slices before C: then every ambiguous cut lies before C."""
        return cls(begin=closed - 3 * windows.slice, closed=closed)


class Bucket(NamedTuple):
    """What decides runs: one bucket's start, number of alerts, and times of its first and last alert."""

    start: int
    alerts: int
    first: int
    last: int


class Segment(NamedTuple):
    """A stretch of a run between two cuts: one storm, once the watermark has reached `due`."""

    buckets: tuple[Bucket, ...]
    due: int
    reason: CloseReason

    @property
    def start(self) -> int:
        """Start of the first bucket: with the group, the storm's identity."""
        return self.buckets[0].start


def first_due(start: int, last: int, windows: Windows) -> int:
    """Watermark at which a storm of one bucket is final; more alerts in it can only put it off."""
    return min(last + windows.gap + 1, windows.first_cut(start))


def runs(buckets: Iterable[Bucket], windows: Windows) -> Iterator[list[Bucket]]:
    """Maximal chains of buckets (ascending) in which next.first - previous.last <= gap."""
    run: list[Bucket] = []
    for bucket in sorted(buckets):
        if run and bucket.first - run[-1].last > windows.gap:
            yield run
            run = []
        run.append(bucket)
    if run:
        yield run


def segments(buckets: Iterable[Bucket], windows: Windows, rebuild: Rebuild | None = None) -> list[Segment]:
    """Cuts one group's buckets into storms to be, in order of time; `due` ascends with them.

    A storm is final when its last alert + gap is before the watermark, or its cut at or before it. A run that may
    have begun before the rebuild's B is cut only where every possible beginning would have it cut.
    """
    result: list[Segment] = []
    for run in runs(buckets, windows):
        cut = windows.first_cut(run[0].start)
        if rebuild is not None and run[0].first <= rebuild.begin + windows.gap:
            cut = windows.first_cut(rebuild.begin + windows.gap + windows.slice)
        part: list[Bucket] = []
        for bucket in run:
            if bucket.start >= cut:
                result.append(_segment(part, cut, windows))
                part = []
                cut = windows.first_cut(bucket.start)
            part.append(bucket)
        result.append(_segment(part, cut, windows))
    return result


def _segment(part: list[Bucket], cut: int, windows: Windows) -> Segment:
    quiet = part[-1].last + windows.gap + 1
    if cut < quiet:
        return Segment(tuple(part), cut, "Slice")
    return Segment(tuple(part), quiet, "Inactivity")
