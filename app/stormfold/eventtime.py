"""Event time, decided once at intake, and how far it has come: progress of a partition, marks, the horizon."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

PartitionPair = tuple[int, int]
"""(keyed partition, alerts partition)."""


@dataclass(slots=True)
class Progress:
    """How far event time has come in one partition of `alerts` (milliseconds); it never goes back."""

    reached: int | None = None

    def stamp(self, timestamp: int, now: int, grace: int) -> tuple[int, bool]:
        """Event time of the record read next, and whether it was late.

        `timestamp` is the record's (negative: it has none), `now` the wall clock. A record more than `grace` behind
        the progress is late: it counts at the progress.
        """
        return next(self.stamps((timestamp,), now, grace))

    def stamps(self, timestamps: Iterable[int], now: int, grace: int) -> Iterator[tuple[int, bool]]:
        """`stamp` for records read one after the other."""
        for timestamp in timestamps:
            time = timestamp if 0 <= timestamp <= now else now
            reached = self.reached
            if reached is None or time > reached:
                self.reached = time
                yield time, False
            elif time < reached - grace:
                yield reached, True
            else:
                yield time, False

    def advance_to(self, time: int) -> None:
        """Event time has come to `time`: a poll then showed that the partition has nothing more, or the horizon did."""
        if self.reached is None or time > self.reached:
            self.reached = time


QUIET = 120_000
"""Marks come every second while anybody reads; if none came for so long (ms), everything was silent."""


class Horizon:
    """The minimum of all marks; a cell that stands still while others go on is left out after `idle_timeout`.

    Only time in which marks came counts towards the limit: silence says nothing about any one of them. Nor does it
    speak against a cell that it is more than a slice ahead of the last: intake holds it there.
    One observer's view: a new observer waits the limit again.
    """

    def __init__(self, idle_timeout: int, ahead: int) -> None:
        self._idle_timeout = idle_timeout
        self._ahead = ahead
        self._seen: dict[PartitionPair, tuple[int | None, int]] = {}
        self._beat: int | None = None
        self._moved: int | None = None
        self._moving = 0
        self.stalled: frozenset[PartitionPair] = frozenset()
        """Cells that the last observation left out."""

    def observe(
        self, marks: Mapping[PartitionPair, int], keyed: int, alerts: int, now: int, beat: int = 0
    ) -> int | None:
        """The horizon at wall-clock time `now`, or None while a cell that counts has no mark yet.

        `keyed` and `alerts` are the numbers of partitions: cells are all pairs of them. `beat` changes whenever marks
        came, although they may say what they said before.
        """
        cells = [(k, a) for k in range(keyed) for a in range(alerts)]
        last = min((marks[cell] for cell in cells if cell in marks and cell not in self.stalled), default=0)
        changed = [cell for cell in cells if cell not in self._seen or self._seen[cell][0] != marks.get(cell)]
        if changed or beat != self._beat:
            if self._moved is not None and now - self._moved <= QUIET:
                self._moving += now - self._moved
            self._moved, self._beat = now, beat
        held = [cell for cell in cells if cell in marks and marks[cell] > last + self._ahead]
        for cell in changed + held:
            self._seen[cell] = (marks.get(cell), self._moving)
        self.stalled = frozenset(c for c in cells if self._moving - self._seen[c][1] > self._idle_timeout)
        values = [marks.get(cell) for cell in cells if cell not in self.stalled]
        known = [value for value in values if value is not None]
        return min(known) if known and len(known) == len(values) else None
