"""An incident: the storms of one scope that follow each other in time, as one record and one resource."""

from typing import Literal

import msgspec

from stormfold.eventtime import EventTime
from stormfold.scope import IncidentScope
from stormfold.storm import AffectedResource, Count, Example

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


class OtherGroup(msgspec.Struct, frozen=True, kw_only=True):
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
