"""Event time, decided once at intake, and its progress: of a partition, and the horizon over all of them (ms)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

PartitionPair = tuple[int, int]
"""(keyed partition, alerts partition)."""

MAX_EVENT_TIME = 253_402_300_799_999
"""Event times end with the year 9999: later ones cannot be written as dates, and lose digits in Lua."""
EventTime = Annotated[int, msgspec.Meta(ge=0, le=MAX_EVENT_TIME)]

MAX_MARK_PAUSE = 120_000
"""Marks come every second while any intake runs. If none came for this long (ms), everything was silent."""


@dataclass(slots=True)
class Progress:
    """How far event time has advanced in one partition of `alerts`; it never goes back."""

    reached: int | None = None

    def stamps(self, timestamps: Iterable[int], now: int, grace: int) -> Iterator[tuple[int, bool]]:
        """Event times of records that are read one after the other, and whether each was late.

        `timestamps` are the records' (negative if one has none), `now` is the wall clock. A record more than `grace`
        behind the progress is late: it counts at the progress.
        """
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
        """Raises the progress to `time`, when a poll found the end of the partition, or to the horizon."""
        if self.reached is None or time > self.reached:
            self.reached = time


class Horizon:
    """The minimum of all marks, without idle pairs: those without progress for `idle_timeout` while others move.

    Only time in which marks came counts towards the timeout, because silence is no evidence about a single pair. A
    pair more than `max_lead` ahead of the last one is not idle: intake pauses it there.
    This is one observer's view: a new observer waits for the whole timeout again.
    """

    def __init__(self, idle_timeout: int, max_lead: int) -> None:
        self.idle_timeout = idle_timeout
        self._max_lead = max_lead
        self._seen: dict[PartitionPair, tuple[int | None, int]] = {}
        """Mark of each pair, and the active time at which it came."""
        self._marks_version: int | None = None
        self._last_change: int | None = None
        self._active = 0
        """Milliseconds in which marks came."""
        self.idle: frozenset[PartitionPair] = frozenset()
        """Pairs that were idle at the last observation: they are excluded from the minimum."""

    def observe(
        self, marks: Mapping[PartitionPair, int], keyed: int, alerts: int, now: int, marks_version: int = 0
    ) -> int | None:
        """The horizon at wall-clock time `now`, or None while a pair that counts has no mark yet.

        `keyed` and `alerts` are the numbers of partitions; all pairs of them count. `marks_version` changes whenever
        marks came, even if their values are the same as before.
        """
        pairs = [(k, a) for k in range(keyed) for a in range(alerts)]
        last = min((marks[pair] for pair in pairs if pair in marks and pair not in self.idle), default=0)
        changed = [pair for pair in pairs if pair not in self._seen or self._seen[pair][0] != marks.get(pair)]
        if changed or marks_version != self._marks_version:
            if self._last_change is not None and now - self._last_change <= MAX_MARK_PAUSE:
                self._active += now - self._last_change
            self._last_change, self._marks_version = now, marks_version
        paused = [pair for pair in pairs if pair in marks and marks[pair] > last + self._max_lead]
        for pair in changed + paused:
            self._seen[pair] = (marks.get(pair), self._active)
        self.idle = frozenset(pair for pair in pairs if self._active - self._seen[pair][1] > self.idle_timeout)
        values = [marks.get(pair) for pair in pairs if pair not in self.idle]
        known = [value for value in values if value is not None]
        return min(known) if known and len(known) == len(values) else None
