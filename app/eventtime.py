"""Event time, decided once at intake, and how far it has come: progress of a partition, marks, the horizon."""

from collections.abc import Mapping
from dataclasses import dataclass

Cell = tuple[int, int]
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
        time = now if timestamp < 0 else min(timestamp, now)
        if self.reached is not None and time < self.reached - grace:
            return self.reached, True
        if self.reached is None or time > self.reached:
            self.reached = time
        return time, False

    def read_to_end(self, polled: int) -> None:
        """A poll at wall-clock time `polled` showed that the partition has nothing more."""
        if self.reached is None or polled > self.reached:
            self.reached = polled


QUIET = 30_000
"""Marks come every second while anybody reads; if none moved for so long (ms), everything was silent."""


class Horizon:
    """The minimum of all marks; a cell that stands still while others go on is left out after `stall_limit`.

    Only time in which marks moved counts towards the limit: silence says nothing about any one of them.
    One observer's view: a new observer waits the limit again.
    """

    def __init__(self, stall_limit: int) -> None:
        self._stall_limit = stall_limit
        self._seen: dict[Cell, tuple[int | None, int]] = {}
        self._moved: int | None = None
        self._moving = 0
        self.stalled: frozenset[Cell] = frozenset()
        """Cells that the last observation left out."""

    def observe(self, marks: Mapping[Cell, int], keyed: int, alerts: int, now: int) -> int | None:
        """The horizon at wall-clock time `now`, or None while a cell that counts has no mark yet.

        `keyed` and `alerts` are the numbers of partitions: cells are all pairs of them.
        """
        cells = [(k, a) for k in range(keyed) for a in range(alerts)]
        changed = [cell for cell in cells if cell not in self._seen or self._seen[cell][0] != marks.get(cell)]
        if changed:
            if self._moved is not None and now - self._moved <= QUIET:
                self._moving += now - self._moved
            self._moved = now
        for cell in changed:
            self._seen[cell] = (marks.get(cell), self._moving)
        self.stalled = frozenset(c for c in cells if self._moving - self._seen[c][1] > self._stall_limit)
        values = [marks.get(cell) for cell in cells if cell not in self.stalled]
        known = [value for value in values if value is not None]
        return min(known) if known and len(known) == len(values) else None
