"""An aggregate as a part of an incident: the facts that decide which incident takes it, and that this one lists."""

import msgspec

from stormfold.scope import IncidentScope
from stormfold.storm import AffectedResource, Aggregate, Example
from stormfold.text import truncate

MAX_PATTERN_BYTES = 256
"""Longest pattern in an incident."""
_NO_EXAMPLE = Example()


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a storm or isolated aggregate that incidents need; or the sums of several, without their names.

    A sum has what is not kept one by one of a scope with too many aggregates. All of it is within one gap of the
    windows, and a storm of the same time is kept, so it is in the same incident as that storm.
    """

    name: str
    """Empty for a sum."""
    storm: bool
    """Whether it is a storm; otherwise it is isolated."""
    scope: IncidentScope
    first: int
    last: int
    alerts: int
    pattern: str = ""
    severity: str = ""
    resource_count: int = 0
    resources: tuple[AffectedResource, ...] = ()
    example: Example = _NO_EXAMPLE
    truncated: bool = False
    number: int = 1
    """Number of aggregates."""

    @classmethod
    def of(cls, aggregate: Aggregate) -> "Part | None":
        """The part that an aggregate is of an incident; None if it cannot be one."""
        if aggregate.scope is None or aggregate.aggregate_class == "Silenced":
            return None
        facts = cls(
            name=aggregate.name,
            storm=aggregate.aggregate_class == "Storm",
            scope=aggregate.scope,
            first=aggregate.first_seen,
            last=max(aggregate.first_seen, aggregate.last_seen),
            alerts=aggregate.alert_count,
            pattern=truncate(aggregate.pattern, MAX_PATTERN_BYTES),
        )
        if not facts.storm:
            return facts
        return msgspec.structs.replace(
            facts,
            severity=aggregate.severity,
            resource_count=aggregate.resource_count,
            resources=aggregate.resources,
            example=aggregate.example,
            truncated=aggregate.truncated,
        )

    @property
    def order(self) -> tuple[int, bool, str]:
        """Storms join in this order; a sum comes after the storm that is kept of its time."""
        return self.first, not self.name, self.name

    def unnamed(self) -> "Part":
        """The sum of this one."""
        return msgspec.structs.replace(
            self, name="", pattern="", resource_count=0, resources=(), example=_NO_EXAMPLE, truncated=True
        )

    def add(self, other: "Part") -> "Part":
        """The sum of both."""
        worst = min(self, other, key=lambda part: (part.scope.rank, part.severity))
        return Part(
            name="",
            storm=self.storm,
            scope=worst.scope,
            severity=worst.severity,
            first=min(self.first, other.first),
            last=max(self.last, other.last),
            alerts=self.alerts + other.alerts,
            truncated=True,
            number=self.number + other.number,
        )
