"""Aggregates with a scope, and a plain model of the incidents that they form, written apart from the product's."""

from collections.abc import Iterable
from typing import NamedTuple, cast

from stormfold.chain import incident_name
from stormfold.incident import Incident
from stormfold.resource import Resource
from stormfold.scope import IncidentScope
from stormfold.storm import AffectedResource, Aggregate, AggregateClass, Example


class Scoped(Aggregate, frozen=True, kw_only=True):
    """An aggregate of a scope."""

    scope: IncidentScope


class Expected(NamedTuple):
    """The facts about an incident."""

    name: str
    storms: tuple[tuple[str, int], ...]
    """Names and alerts."""
    others: tuple[tuple[str, int], ...]
    """Patterns and alerts, sorted."""
    alerts: int
    first: int
    last: int
    until: int
    reason: str
    continues: str
    """Name of the incident that it continues; empty: none."""


def aggregate(
    name: str, cluster: str, kind: AggregateClass, first: int, last: int, *, alerts: int = 1, gap: int = 6,
    max_length: int = 30, window_gap: int = 2, rank: int = 2, resources: Iterable[Resource] = (),
    severity: str = "warning", truncated: bool = False,
) -> Scoped:  # fmt: skip
    """An aggregate of the scope of a cluster."""
    affected = tuple(AffectedResource(resource, alerts) for resource in resources)
    return Scoped(
        name=name, namespace="storms", aggregate_class=kind, route="default", group_labels={"cluster": cluster},
        pattern=f"{name}{{}}", severity=severity, alert_count=alerts, distinct=alerts, resolved=0,
        resource_count=len(affected), resources=affected, example=Example({"alertname": name}), first_seen=first,
        last_seen=last, close_reason="Inactivity", late=0, truncated=truncated,
        scope=IncidentScope(
            labels={"cluster": cluster}, gap=gap, max_length=max_length, namespace="storms", window_gap=window_gap,
            rank=rank,
        ),
    )  # fmt: skip


def plain(aggregates: Iterable[Aggregate]) -> list[Expected]:
    """All incidents of the aggregates, of which each name occurs once."""
    some = sorted((cast("Scoped", a) for a in aggregates if a.scope), key=lambda a: (a.first_seen, a.name))
    found = []
    for key in {a.scope.key for a in some}:
        found += _plain([a for a in some if a.scope.key == key])
    return found


def _plain(some: list[Scoped]) -> list[Expected]:
    """The same of one scope."""
    groups: list[list[Scoped]] = []
    reasons: list[str] = []
    continues: list[str] = []
    for a in (a for a in some if a.aggregate_class == "Storm"):
        begin = groups[-1][0] if groups else a
        near = bool(groups) and a.first_seen <= max(s.last_seen for g in groups for s in g) + begin.scope.gap
        if near and a.first_seen < begin.first_seen + begin.scope.max_length:
            groups[-1].append(a)
            continue
        if near:
            reasons[-1] = "MaxDuration"
        reasons.append("Quiet")
        continues.append(_name(begin) if near else "")
        groups.append([a])
    taken: set[str] = set()
    found = []
    for storms, reason, before in zip(groups, reasons, continues, strict=True):
        begin, last = storms[0], max(s.last_seen for s in storms)
        others = [
            a for a in some
            if a.aggregate_class == "Isolated" and a.name not in taken
            and begin.first_seen - a.scope.window_gap <= a.first_seen <= last + min(a.scope.window_gap, begin.scope.gap)
        ]  # fmt: skip
        taken |= {a.name for a in others}
        found.append(
            Expected(
                _name(begin), tuple((s.name, s.alert_count) for s in storms),
                tuple(sorted((a.pattern, a.alert_count) for a in others)), sum(a.alert_count for a in storms + others),
                begin.first_seen, last,
                last if reason == "Quiet" else begin.first_seen + begin.scope.max_length - 1, reason, before,
            )
        )  # fmt: skip
    return found


def facts(incident: Incident) -> Expected:
    """The same facts of a published incident."""
    return Expected(
        incident.name, tuple((s.name, s.alert_count) for s in incident.storms),
        tuple(sorted((o.pattern, o.alert_count) for o in incident.other_groups)), incident.alert_count,
        incident.first_seen, incident.last_seen, incident.until, incident.close_reason, incident.continues or "",
    )  # fmt: skip


def _name(first: Scoped) -> str:
    return incident_name(first.scope.key, first.name)
