"""An incident: the storms of one scope that follow each other in time, as one record and one resource."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

import msgspec

from stormfold.eventtime import EventTime
from stormfold.scope import IncidentScope
from stormfold.storm import AffectedResource, Count, Example

Entry = TypeVar("Entry", bound=msgspec.Struct)

TIMES_BYTES = 64
"""Bytes that an entry of a list can have in the resource in addition to its own as JSON: times are longer there."""

IncidentCloseReason = Literal["Quiet", "MaxDuration"]


class IncidentStorm(msgspec.Struct, frozen=True, kw_only=True):
    """A storm of an incident, in short."""

    name: str
    pattern: str
    severity: str
    alert_count: Count
    resource_count: Count
    first_seen: EventTime
    last_seen: EventTime


class OtherGroup(msgspec.Struct, frozen=True):
    """An isolated aggregate that is listed with an incident."""

    pattern: str
    alert_count: Count
    first_seen: EventTime


class NamespaceCount(msgspec.Struct, frozen=True):
    """How many alerts of an incident were about resources of a namespace."""

    name: str
    alerts: Count


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """The storms of one scope that follow each other. Times are milliseconds since the Unix epoch.

    `incident_manifest` converts it to its resource and back without loss.
    """

    name: str
    scope: IncidentScope
    """Scope and rules of its first storm; `rank` is that of the highest severity."""
    severity: str
    """The highest of its storms."""
    alert_count: Count
    """Alerts of its storms and of the other groups, listed or not."""
    storm_count: Count
    other_group_count: Count
    resource_count: Count
    """Distinct affected resources of its storms; a lower bound if `truncated`."""
    first_storm: str
    """Name of the storm that fired first."""
    first_pattern: str
    """Pattern of that storm."""
    example: Example
    """The first alert of that storm."""
    storms: tuple[IncidentStorm, ...]
    """By first alert and name, the first of them."""
    other_groups: tuple[OtherGroup, ...]
    """By alerts and pattern, the largest of them."""
    namespaces: tuple[NamespaceCount, ...]
    """By alerts and name, those with the most."""
    resources: tuple[AffectedResource, ...]
    """Those with the most alerts."""
    first_seen: EventTime
    last_seen: EventTime
    until: EventTime
    """The latest first alert of a storm that it took, or would have taken: later storms are of another incident."""
    close_reason: IncidentCloseReason
    continues: str | None = None
    """Name of the incident before it in the scope, if only the longest duration separates them."""
    truncated: bool = False
    """Whether a list does not have everything, or a count is a lower bound."""


def limit_storms(storms: Iterable[IncidentStorm]) -> tuple[IncidentStorm, ...]:
    """The first storms, at most 200 and 200 KB."""
    return _limit(storms, lambda storm: (storm.first_seen, storm.name), 200, 200_000)


def limit_other_groups(groups: Iterable[OtherGroup]) -> tuple[OtherGroup, ...]:
    """The largest of the other groups, at most 50 and 50 KB."""
    return _limit(groups, lambda group: (-group.alert_count, group.pattern, group.first_seen), 50, 50_000)


def limit_namespaces(namespaces: Iterable[NamespaceCount]) -> tuple[NamespaceCount, ...]:
    """The namespaces with the most alerts, at most 50 and 30 KB."""
    return _limit(namespaces, lambda namespace: (-namespace.alerts, namespace.name), 50, 30_000)


def _limit(entries: Iterable[Entry], order: Callable[[Entry], Any], most: int, size: int) -> tuple[Entry, ...]:
    found: list[Entry] = []
    for entry in sorted(entries, key=order)[:most]:
        size -= len(msgspec.json.encode(entry)) + TIMES_BYTES
        if size < 0:
            break
        found.append(entry)
    return tuple(found)
