"""Session windows without I/O: buckets of one gap, sessions of buckets, cuts on the clock, and final segments.

All times are milliseconds since the Unix epoch. A bucket is named by its start, a multiple of `gap`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

CloseReason = Literal["Inactivity", "Slice"]


class Windows(msgspec.Struct, frozen=True, rename={"slice_length": "slice"}):
    """The window settings, all in milliseconds."""

    gap: int = 60_000
    """Longest time without an alert inside a session."""
    grace: int = 10_000
    """How far clocks may disagree, and how long late alerts are waited for."""
    slice_length: int = 300_000
    """Long sessions are cut at multiples of this. It is a multiple of `gap`, and at least twice it."""

    def bucket(self, time: int) -> int:
        """Start of the bucket that holds `time`."""
        return time - time % self.gap

    def first_cut(self, start: int) -> int:
        """The first multiple of the slice that is at least half a slice after a session that begins at `start`."""
        return -(-(start + (self.slice_length + 1) // 2) // self.slice_length) * self.slice_length


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Where a new state version began to read again, in event time (ms)."""

    rebuild_from: int
    """Alerts before it are skipped, so a session that begins soon after it may have a hidden beginning."""
    closed_before: int
    """Every aggregate that begins before it has been closed and published."""

    @classmethod
    def of(cls, closed_before: int, windows: Windows) -> "Rebuild":
        """Begins three slices before `closed_before`: then every ambiguous cut lies before that."""
        return cls(closed_before - 3 * windows.slice_length, closed_before)


class Bucket(NamedTuple):
    """One bucket's start, its number of alerts, and the times of its first and last alert."""

    start: int
    alerts: int
    first: int
    last: int


class Segment(NamedTuple):
    """The part of a session between two cuts; it becomes one aggregate when the watermark reaches `due`."""

    buckets: tuple[Bucket, ...]
    due: int
    reason: CloseReason

    @property
    def start(self) -> int:
        """Start of the first bucket: with the group, the identity of the aggregate."""
        return self.buckets[0].start


def first_due(start: int, last: int, windows: Windows) -> int:
    """Watermark at which a segment of one bucket is final; more alerts in the bucket can only postpone it."""
    return min(last + windows.gap + 1, windows.first_cut(start))


def sessions(buckets: Iterable[Bucket], windows: Windows) -> Iterator[list[Bucket]]:
    """Maximal chains of buckets (ascending) in which next.first - previous.last <= gap."""
    session: list[Bucket] = []
    for bucket in sorted(buckets):
        if session and bucket.first - session[-1].last > windows.gap:
            yield session
            session = []
        session.append(bucket)
    if session:
        yield session


def segments(buckets: Iterable[Bucket], windows: Windows, rebuild: Rebuild | None = None) -> list[Segment]:
    """Cuts one group's buckets into segments, in order of time; `due` ascends with them.

    A segment is final when its last alert + gap is before the watermark, or its cut at or before it. A session that
    may have begun before `rebuild_from` is cut only where it would be cut whenever it began.
    """
    result: list[Segment] = []
    for session in sessions(buckets, windows):
        cut = windows.first_cut(session[0].start)
        if rebuild is not None and session[0].first <= rebuild.rebuild_from + windows.gap:
            cut = windows.first_cut(rebuild.rebuild_from + windows.gap + windows.slice_length)
        part: list[Bucket] = []
        for bucket in session:
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
