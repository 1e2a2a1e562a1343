"""How the aggregates of one scope form incidents: which storms follow each other, and which aggregates are listed.

Pure: a function of aggregates and of the incidents that are known. All times are milliseconds since the Unix epoch.
"""

import hashlib
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from stormfold.eventtime import MAX_EVENT_TIME
from stormfold.incident import (
    Incident,
    IncidentCloseReason,
    IncidentStorm,
    NamespaceCount,
    OtherGroup,
    limit_namespaces,
    limit_other_groups,
    limit_storms,
)
from stormfold.incident_part import Part
from stormfold.resource import Resource
from stormfold.scope import IncidentScope, ScopeKey
from stormfold.storm import MAX_COUNT, limit_resources
from stormfold.text import slug

MAX_RESOURCES = 200
"""Most resources in an incident."""


@dataclass(frozen=True, slots=True)
class KnownIncident:
    """An incident that was published."""

    name: str
    first: int
    last: int
    until: int
    gap: int

    @classmethod
    def of(cls, incident: Incident) -> "KnownIncident":
        """The facts that decide about later aggregates."""
        return cls(incident.name, incident.first_seen, incident.last_seen, incident.until, incident.scope.gap)


class Known:
    """The published incidents of a scope."""

    def __init__(self) -> None:
        self._incidents: list[KnownIncident] = []
        """In order of time."""
        self._names: set[str] = set()
        self._longest = 0
        """The longest time from the first alert to the last of any of them."""
        self.latest: int | None = None
        """The latest alert of all of them."""
        self.until = -1
        """Storms that begin at this time or before are done."""

    @property
    def newest(self) -> KnownIncident | None:
        """The one that began last."""
        return self._incidents[-1] if self._incidents else None

    def add(self, incident: KnownIncident) -> bool:
        """Adds an incident; False if there is one of that name."""
        if incident.name in self._names:
            return False
        self._names.add(incident.name)
        insort(self._incidents, incident, key=_order)
        self._longest = max(self._longest, incident.last - incident.first)
        self.latest = incident.last if self.latest is None else max(self.latest, incident.last)
        self.until = max(self.until, incident.until)
        return True

    def has_done(self, part: Part) -> bool:
        """Whether this part is in a published incident, or comes too late for one."""
        if part.storm:
            return part.first <= self.until
        reach = part.scope.window_gap
        begin = bisect_left(self._incidents, (part.first - reach - self._longest, ""), key=_order)
        for incident in islice(self._incidents, begin, None):
            if incident.first > part.first + reach:
                break
            if lists(incident.first, incident.last, incident.gap, part):
                return True
        return False


@dataclass(slots=True)
class FormingIncident:
    """An incident that is not published: the parts that it has so far."""

    storms: list[Part]
    """In their order; the first is not a sum."""
    continues: str | None
    latest: int
    """The latest alert of these storms and of all storms of the scope before them."""
    others: list[Part] = field(default_factory=list)
    """Isolated aggregates, in order of time."""
    cut: bool = False
    """Whether the next storm of the scope followed, but too long after the first."""
    last: int = 0
    """The latest alert of its storms."""

    def __post_init__(self) -> None:
        self.last = self.storms[0].last

    @property
    def scope(self) -> IncidentScope:
        """That of its first storm: its rules hold."""
        return self.storms[0].scope

    @property
    def name(self) -> str:
        """Name of its resource: a slug of the scope and 16 hex digits, a DNS label of at most 57 characters."""
        return incident_name(self.scope.key, self.storms[0].name)

    @property
    def first(self) -> int:
        """The first alert of its storms."""
        return self.storms[0].first

    @property
    def close_reason(self) -> IncidentCloseReason:
        """Why it has an end."""
        return "MaxDuration" if self.cut else "Quiet"

    @property
    def until(self) -> int:
        """The latest first alert of a storm that it takes, if it ends now."""
        if not self.cut:
            return self.last
        return max(self.storms[-1].first, min(self.first + self.scope.max_length - 1, MAX_EVENT_TIME))

    @property
    def final_after(self) -> int:
        """It is final once all that begins up to this time is closed and published, and those before it are final."""
        return self.latest + self.scope.gap

    def takes(self, part: Part) -> bool:
        """Whether it is short enough for a storm that follows its last one."""
        return part.first - self.first < self.scope.max_length

    def add(self, storm: Part) -> None:
        """Adds the next storm."""
        self.storms.append(storm)
        self.last, self.latest = max(self.last, storm.last), max(self.latest, storm.last)

    def build(self) -> Incident:
        """The incident as it is published."""
        parts = [*self.storms, *self.others]
        resources = self._resources()
        by_namespace = _by_namespace(resources)
        first, worst = self.storms[0], min(self.storms, key=lambda storm: (storm.scope.rank, storm.severity))
        storms = limit_storms(_storm(storm) for storm in self.storms if storm.name)
        others = limit_other_groups(OtherGroup(o.pattern, o.alerts, o.first) for o in self.others if o.name)
        namespaces = limit_namespaces(NamespaceCount(name, alerts) for name, alerts in by_namespace.items())
        shown = limit_resources(resources.items(), MAX_RESOURCES)
        storm_count, other_count = (sum(part.number for part in some) for some in (self.storms, self.others))
        complete = len(storms) == storm_count and len(others) == other_count
        complete = complete and len(shown) == len(resources) and len(namespaces) == len(by_namespace)
        return Incident(
            name=self.name,
            scope=msgspec.structs.replace(first.scope, rank=worst.scope.rank),
            severity=worst.severity,
            alert_count=min(sum(part.alerts for part in parts), MAX_COUNT),
            storm_count=storm_count,
            other_group_count=other_count,
            resource_count=len(resources),
            first_storm=first.name,
            first_pattern=first.pattern,
            example=first.example,
            storms=storms,
            other_groups=others,
            namespaces=namespaces,
            resources=shown,
            first_seen=self.first,
            last_seen=self.last,
            until=self.until,
            close_reason=self.close_reason,
            continues=self.continues,
            truncated=not complete or any(part.truncated for part in parts),
        )

    def _resources(self) -> Counter[Resource]:
        """Alerts of its storms by resource."""
        found: Counter[Resource] = Counter()
        for storm in self.storms:
            for entry in storm.resources:
                found[entry.resource] = min(found[entry.resource] + entry.alerts, MAX_COUNT)
        return found


def chain(parts: Iterable[Part], known: Known) -> list[FormingIncident]:
    """The incidents that parts of one scope form, in order of time.

    `known` are the incidents of the scope that are published; it has none of the parts.
    """
    parts = sorted(parts, key=lambda part: part.order)
    found: list[FormingIncident] = []
    newest, latest = known.newest, known.latest
    before, gap = (newest.name, newest.gap) if newest else (None, 0)
    for storm in parts:
        if not storm.storm or not (storm.name or found):
            continue
        near = latest is not None and storm.first - latest <= gap
        if found and (not storm.name or (near and found[-1].takes(storm))):
            found[-1].add(storm)
            latest = found[-1].latest
        else:
            if found:
                found[-1].cut = near
            latest = storm.last if latest is None else max(latest, storm.last)
            found.append(FormingIncident([storm], before if near else None, latest))
            before, gap = found[-1].name, storm.scope.gap
    _distribute([part for part in parts if not part.storm], found)
    return found


def lists(first: int, last: int, gap: int, part: Part) -> bool:
    """Whether an incident with these times and this gap has a place for an isolated aggregate.

    It begins at most one gap of the windows before the incident or after its last alert. The gap of the incident is a
    limit, too: windows may have changed since, and up to there all aggregates are known when it is final.
    """
    reach = part.scope.window_gap
    return first - reach <= part.first <= last + min(reach, gap)


def incident_name(key: ScopeKey, first_storm: str) -> str:
    """Name of the incident of a scope that begins with a storm."""
    identity = msgspec.msgpack.encode([key, first_storm])
    digest = hashlib.blake2b(identity, digest_size=8).hexdigest()
    return f"{slug('-'.join(value for _, value in key), 'incident')}-{digest}"


def _distribute(others: Iterable[Part], incidents: list[FormingIncident]) -> None:
    """Puts each isolated aggregate into the earliest incident that has a place for it."""
    for part in others:
        for incident in incidents:
            if lists(incident.first, incident.last, incident.scope.gap, part):
                incident.others.append(part)
                break


def _storm(storm: Part) -> IncidentStorm:
    return IncidentStorm(
        name=storm.name,
        pattern=storm.pattern,
        severity=storm.severity,
        alert_count=storm.alerts,
        resource_count=storm.resource_count,
        first_seen=storm.first,
        last_seen=storm.last,
    )


def _by_namespace(resources: Mapping[Resource, int]) -> Counter[str]:
    """Alerts by the namespace of their resource, which can be the namespace itself."""
    found: Counter[str] = Counter()
    for (kind, namespace, name), alerts in resources.items():
        if inside := name if kind == "Namespace" else namespace:
            found[inside] = min(found[inside] + alerts, MAX_COUNT)
    return found


def _order(incident: KnownIncident) -> tuple[int, str]:
    return incident.first, incident.name
