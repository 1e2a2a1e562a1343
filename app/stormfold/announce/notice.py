"""Decides which open incidents are posted, and when they are over. Pure: time and everything seen are arguments.

An incident is open if one of its storms, closed or still open, is in no final incident, and the watermark has passed
that storm's first alert: then no earlier alert can come, and the number of qualifying alerts only grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from stormfold.correlation import Correlation
from stormfold.incident import Incident
from stormfold.incident_part import Part
from stormfold.scope import ANNOUNCED_LABEL, ScopeKey
from stormfold.storm import Aggregate
from stormfold.text import pluralize, truncate
from stormfold.times import format_timestamp

ALERTNAME = "AlertIncident"
NEAR = 120_000
"""Milliseconds that the watermark may be behind the clock for an incident to be announced for the first time: a
catch-up does not page for the past."""
RESOLVED_FOR = 300_000
"""Milliseconds for which the end of an incident is posted, so that an instance that was away gets it."""
MAX_VALUE_BYTES = 1024
"""Longest value of an annotation."""
REQUIRED = frozenset({"incident", "namespace", "alerts", "storms", "resources", "startedWith", "lastAlert"})
"""Annotations that are always there."""
LARGEST = 3
"""Storms that the annotation `largest` names."""


@dataclass(frozen=True, slots=True)
class Look:
    """The open groups, at one moment of one state version."""

    watermark: int
    """In ms."""
    segments: Sequence[Aggregate]
    """The open segments of the largest groups, as aggregates of what has come so far."""


class Firing(msgspec.Struct, frozen=True, kw_only=True):
    """An incident that is announced. Times are milliseconds."""

    labels: dict[str, str]
    """The label set that was posted last."""
    annotations: dict[str, str]
    rank: int
    """Place of its severity in the configured order, the highest since it began."""
    severity: str
    starts_at: int
    last: int
    """Event time of its last alert."""
    gap: int
    """It is over when everything up to this long after `last` is closed."""

    @classmethod
    def decode(cls, value: bytes) -> "Firing | None":
        """Reads one from JSON; None if it is not one, or not complete."""
        try:
            found = msgspec.json.decode(value, type=cls)
        except msgspec.DecodeError:
            return None
        return found if found.annotations.keys() >= REQUIRED else None

    def over(self, closed_before: int) -> bool:
        """Whether it is over if everything that begins before that time is closed and published."""
        return closed_before > self.last + self.gap


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A label set that no longer fires."""

    labels: dict[str, str]
    annotations: dict[str, str]
    starts_at: int
    ended_at: int


@dataclass(slots=True)
class Notices:
    """The incidents that are announced, by scope, and those whose end is still posted."""

    link: str | None = None
    """URL of the status page."""
    pipeline: str = ""
    """What distinguishes the incidents of this pipeline from those of others that share an Alertmanager."""
    firing: dict[ScopeKey, Firing] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)

    def update(self, look: Look | None, closed_before: int | None, correlation: Correlation, now: int) -> None:
        """Decides what fires at `now`. Without a look (Redis does not answer), everything that fires stays as it is.

        `closed_before` is that of fold's newest commit: all that begins before it is closed, published, and added to
        `correlation` after the look.
        """
        self.ended = [one for one in self.ended if now - one.ended_at < RESOLVED_FOR]
        if look is None:
            return
        opened: dict[ScopeKey, list[Part]] = {}
        for one in look.segments:
            part = Part.of(one)
            if part is None or not part.storm or correlation.is_pending(part.name) or correlation.is_done(part):
                continue
            opened.setdefault(part.scope.key, []).append(part)
        for scope in sorted({*correlation.scopes, *opened, *self.firing}):
            parts = opened.get(scope, [])
            certain = {part.name for part in parts if part.first <= look.watermark}
            live = [
                forming
                for forming in correlation.forming(scope, parts)
                if (closed_before or 0) <= forming.final_after
                and any(storm.name in certain or correlation.is_pending(storm.name) for storm in forming.storms)
            ]
            # Where the watermark is past that, nothing can join any more: only its publication is to come.
            begins = now - look.watermark <= NEAR and any(look.watermark <= one.final_after for one in live)
            self._update_scope(scope, [one.build() for one in live], closed_before or 0, begins, now)

    def alerts(self, now: int, lasts: int) -> list[dict[str, Any]]:
        """The alerts to post at `now`; what fires resolves on its own `lasts` ms later, unless it is posted again."""
        return [self._alert(one, one.starts_at, now + lasts) for _, one in sorted(self.firing.items())] + [
            self._alert(one, one.starts_at, one.ended_at) for one in self.ended
        ]

    def _update_scope(
        self, scope: ScopeKey, live: Sequence[Incident], closed_before: int, begins: bool, now: int
    ) -> None:
        """Compares what fires in a scope with its open incidents."""
        before = self.firing.get(scope)
        over = before is not None and before.over(closed_before)
        if live and (before is not None or begins):
            fires = self._fires(scope, live, None if over else before)
            self.ended = [one for one in self.ended if one.labels != fires.labels]
            if before is not None and before.labels != fires.labels:
                self._end(before, now)
            self.firing[scope] = fires
        elif before is not None and over:
            del self.firing[scope]
            self._end(before, now)

    def _fires(self, scope: ScopeKey, live: Sequence[Incident], before: Firing | None) -> Firing:
        worst = min(live, key=lambda incident: incident.scope.rank)
        rank, severity = worst.scope.rank, worst.severity
        last = max(one.last_seen for one in live)
        starts_at = live[0].first_seen
        if before is not None:
            # The highest since it began: an alert that falls back and fires again would notify twice.
            if before.rank <= rank:
                rank, severity = before.rank, before.severity
            last, starts_at = max(last, before.last), min(starts_at, before.starts_at)
        return Firing(
            labels={
                "alertname": ALERTNAME,
                **{name: value for name, value in scope if value},
                ANNOUNCED_LABEL[0]: ANNOUNCED_LABEL[1],
                "severity": severity,
            },
            annotations=self._annotations(live),
            rank=rank,
            severity=severity,
            starts_at=starts_at,
            last=last,
            gap=live[-1].scope.gap,
        )

    def _end(self, before: Firing, now: int) -> None:
        self.ended.append(
            Ended(labels=before.labels, annotations=before.annotations, starts_at=before.starts_at, ended_at=now)
        )

    def _annotations(self, live: Sequence[Incident]) -> dict[str, str]:
        first = live[0]
        storms = [storm for one in live for storm in one.storms]
        largest = sorted(storms, key=lambda storm: (-storm.alert_count, storm.name))[:LARGEST]
        alerts = sum(one.alert_count for one in live)
        storm_count = sum(one.storm_count for one in live)
        values = {
            "summary": f"{pluralize(alerts, 'alert')} in {pluralize(storm_count, 'storm')}: {first.first_pattern}",
            "incident": first.name,
            "namespace": first.scope.namespace,
            "alerts": str(alerts),
            "storms": str(storm_count),
            "resources": str(sum(one.resource_count for one in live)),
            "since": format_timestamp(first.first_seen),
            "lastAlert": format_timestamp(max(one.last_seen for one in live)),
            "startedWith": first.first_pattern,
            "startedWithStorm": first.first_storm,
            "largest": ", ".join(f"{storm.pattern} ({storm.alert_count:,})" for storm in largest),
            "exampleSummary": first.example.annotations.get("summary", ""),
            "runbook_url": first.example.annotations.get("runbook_url", ""),
            "link": self.link or "",
            "pipeline": self.pipeline,
        }
        return {name: truncate(value, MAX_VALUE_BYTES) for name, value in values.items() if value}

    def _alert(self, one: Firing | Ended, starts_at: int, ends_at: int) -> dict[str, Any]:
        link = {"generatorURL": self.link} if self.link else {}
        return {
            "labels": one.labels,
            "annotations": one.annotations,
            "startsAt": format_timestamp(starts_at),
            "endsAt": format_timestamp(ends_at),
            **link,
        }
