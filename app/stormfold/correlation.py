"""Which aggregates wait for their incident: the state of correlation, in memory, from `storms` and `incidents` alone.

Pure: callers read the topics, publish what is final, and commit the offsets that are still needed. All times are
milliseconds since the Unix epoch.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import NamedTuple

from stormfold.chain import FormingIncident, Known, KnownIncident, chain
from stormfold.incident import Incident
from stormfold.incident_part import Part
from stormfold.scope import ScopeKey
from stormfold.storm import Aggregate

MAX_PARTS_PER_SCOPE = 10_000
"""Aggregates of a scope that are kept one by one, and so the most of an incident; more are only counted."""
MAX_PARTS = 200_000
"""Aggregates of all scopes that are kept one by one."""
SPARE = 1.1
"""A scope is trimmed when it exceeds its limit by this factor, so that trimming is rare."""
EDGE = 16
"""Sums of isolated aggregates in one gap of the windows: at the edge of an incident, those of one sum may be off."""
MAX_NAMES = 100_000
"""Names of storms in published incidents that are kept, to distinguish storms that are read again from late ones."""


class RecordPlace(NamedTuple):
    """Where a record of `storms` is."""

    partition: int
    offset: int
    timestamp: int = -1
    """When it was appended (ms)."""

    def precedes(self, other: "RecordPlace") -> bool:
        """Whether it was written first. A name changes its partition only when the topic gets more of them."""
        if self.partition == other.partition:
            return self.offset < other.offset
        return (self.timestamp, self.partition) < (other.timestamp, other.partition)


class Added(Enum):
    """What follows from an aggregate that was read."""

    NONE = "it can be in no incident"
    PENDING = "it waits for its incident"
    REPEATED = "it is known"
    LATE = "it is a storm, and the incident that would have taken it is published: it is in none"


class _Sum(NamedTuple):
    """Aggregates of one scope and time that are only counted."""

    part: Part
    needed: dict[int, int]
    """Offset of the first of them in each partition."""


class _Scope:
    """The pending aggregates of one scope, and its published incidents."""

    def __init__(self) -> None:
        self.parts: dict[str, tuple[Part, RecordPlace]] = {}
        """By name."""
        self.sums: dict[tuple[int, int, bool], _Sum] = {}
        """By `_time`."""
        self.known = Known()
        self.forming: list[FormingIncident] | None = None
        """The incidents that the pending aggregates form; None if that is to be computed."""

    def all_parts(self) -> Iterator[Part]:
        yield from (part for part, _ in self.parts.values())
        yield from (found.part for found in self.sums.values())

    def chain(self, more: Iterable[Part] = ()) -> list[FormingIncident]:
        return chain([*self.all_parts(), *more], self.known)

    def remove(self, names: Iterable[str], sums: Iterable[tuple[int, int, bool]]) -> None:
        for name in names:
            del self.parts[name]
        for key in sums:
            del self.sums[key]
        self.forming = None

    def trim(self, limit: int) -> list[str]:
        """Keeps the first parts and of each time the first storm, counts all others; returns the names of those."""
        ordered = sorted(self.parts.values(), key=lambda found: found[0].order)
        storms = {_time(part): part for part, _ in reversed(ordered) if part.storm}
        counted = [found for found in ordered[limit:] if storms.get(_time(found[0])) is not found[0]]
        for part, place in counted:
            key = _time(part)
            before = self.sums.get(key)
            needed = dict(before.needed) if before else {}
            needed[place.partition] = min(place.offset, needed.get(place.partition, place.offset))
            self.sums[key] = _Sum(before.part.add(part) if before else part.unnamed(), needed)
            del self.parts[part.name]
        self.forming = None
        return [part.name for part, _ in counted]


class Correlation:
    """Pending aggregates and published incidents of all scopes.

    The first record of each name decides, so the order of reading does not matter. Above the limits, aggregates are
    only counted: then the order can decide which, and a record that is read twice counts twice.
    """

    def __init__(self, scope_limit: int = MAX_PARTS_PER_SCOPE, limit: int = MAX_PARTS) -> None:
        self._scope_limit = scope_limit
        self._limit = self._trim_above = limit
        self._scopes: dict[ScopeKey, _Scope] = {}
        self._pending: dict[str, _Scope] = {}
        """Scope of each pending aggregate, by name."""
        self._joined: dict[str, None] = {}
        """Names of storms in published incidents, the newest last."""

    @property
    def pending(self) -> int:
        """Number of aggregates that are kept."""
        return len(self._pending)

    @property
    def scopes(self) -> list[ScopeKey]:
        """Scopes with pending aggregates."""
        return [key for key, scope in self._scopes.items() if scope.parts or scope.sums]

    def add(self, aggregate: Aggregate, place: RecordPlace) -> Added:
        """Adds the aggregate of a record; the first record of a name counts."""
        part = Part.of(aggregate)
        before = self._pending.get(aggregate.name)
        if before is not None:
            if not place.precedes(before.parts[aggregate.name][1]):
                return Added.REPEATED
            before.remove([aggregate.name], [])
            del self._pending[aggregate.name]
        if part is None:
            return Added.NONE
        scope = self._scopes.setdefault(part.scope.key, _Scope())
        if scope.known.has_done(part):
            return Added.REPEATED if not part.storm or part.name in self._joined else Added.LATE
        scope.parts[part.name] = part, place
        scope.forming = None
        self._pending[part.name] = scope
        if len(scope.parts) > self._scope_limit * SPARE:
            self._trim(scope, self._scope_limit)
        if len(self._pending) > self._trim_above:
            largest = max(self._scopes.values(), key=lambda scope: len(scope.parts))
            self._trim(largest, len(largest.parts) // 2)
            self._trim_above = max(self._limit, round(len(self._pending) * SPARE))
        return Added.PENDING

    def know(self, incident: Incident, storms: Iterable[str] | None = None) -> None:
        """Adds a published incident, with the names of its storms if they are known better than it lists them.

        Of several with one name the first counts.
        """
        scope = self._scopes.setdefault(incident.scope.key, _Scope())
        if not scope.known.add(KnownIncident.of(incident)):
            return
        for name in storms or (storm.name for storm in incident.storms):
            self._joined[name] = None
        while len(self._joined) > MAX_NAMES:
            del self._joined[next(iter(self._joined))]
        done = [name for name, (part, _) in scope.parts.items() if scope.known.has_done(part)]
        scope.remove(done, [key for key, found in scope.sums.items() if scope.known.has_done(found.part)])
        for name in done:
            del self._pending[name]

    def is_done(self, part: Part) -> bool:
        """Whether this part is in a published incident, or comes too late for one."""
        scope = self._scopes.get(part.scope.key)
        return scope is not None and scope.known.has_done(part)

    def is_pending(self, name: str) -> bool:
        """Whether an aggregate is kept."""
        return name in self._pending

    def forming(self, key: ScopeKey, more: Iterable[Part] = ()) -> list[FormingIncident]:
        """The incidents of a scope that are not published, in order of time, as of now.

        `more` are parts in addition to the pending ones, such as those of groups that are open.
        """
        scope = self._scopes.get(key) or _Scope()
        if len(scope.parts) > self._scope_limit:
            self._trim(scope, self._scope_limit)
        more = list(more)
        if more:
            return scope.chain(more)
        if scope.forming is None:
            scope.forming = scope.chain()
        return scope.forming

    def final(self, closed_before: int) -> list[FormingIncident]:
        """The incidents to publish, in this order, if all that begins before `closed_before` was added.

        Each is to be built, published, and passed to `know`.
        """
        found = []
        for key in sorted(self.scopes):
            for incident in self.forming(key):
                if closed_before <= incident.final_after:
                    break
                found.append(incident)
        return found

    def forget(self, closed_before: int) -> None:
        """Drops isolated aggregates that no incident can take any more.

        All that begins before `closed_before` must have been added, and what is final must be known.
        """
        for key in self.scopes:
            scope = self._scopes[key]
            forming = self.forming(key)
            begin = forming[0].first if forming else None
            drop = [name for name, (part, _) in scope.parts.items() if _is_over(part, begin, closed_before)]
            scope.remove(drop, [at for at, found in scope.sums.items() if _is_over(found.part, begin, closed_before)])
            # They are in none of these incidents.
            scope.forming = forming
            for name in drop:
                del self._pending[name]
            if not scope.parts and not scope.sums and scope.known.newest is None:
                del self._scopes[key]

    def needed(self, positions: Mapping[int, int]) -> dict[int, int]:
        """The earliest offset of each partition that a later reader needs, if all before `positions` was added."""
        needed = dict(positions)
        for scope in self._scopes.values():
            for _, place in scope.parts.values():
                needed[place.partition] = min(place.offset, needed.get(place.partition, place.offset))
            for found in scope.sums.values():
                for partition, offset in found.needed.items():
                    needed[partition] = min(offset, needed.get(partition, offset))
        return needed

    def _trim(self, scope: _Scope, limit: int) -> None:
        for name in scope.trim(limit):
            del self._pending[name]


def incidents_of(aggregates: Iterable[Aggregate]) -> list[Incident]:
    """The incidents of these aggregates if none follows, by scope and time."""
    correlation = Correlation(sys.maxsize // 2, sys.maxsize // 2)
    for offset, aggregate in enumerate(aggregates):
        correlation.add(aggregate, RecordPlace(0, offset))
    return [forming.build() for key in sorted(correlation.scopes) for forming in correlation.forming(key)]


def _time(part: Part) -> tuple[int, int, bool]:
    """Parts of one scope with the same value are within one gap of the windows, and of one class.

    Isolated ones are closer: an incident lists those that begin up to one gap before it, and of a sum all or none.
    """
    gap = max(1, part.scope.window_gap)
    return gap, part.first // (gap if part.storm else max(1, gap // EDGE)), part.storm


def _is_over(part: Part, begin: int | None, closed_before: int) -> bool:
    """Whether no incident that is not final can take this part. The earliest of them begins at `begin`.

    Storms that were not added yet begin at `closed_before` or later.
    """
    end = part.first + part.scope.window_gap
    return not part.storm and closed_before > end and (begin is None or begin > end)
