"""Compares the incidents that were published with those that the storms give. Pure; all times are milliseconds.

A storm is late if it was published after an incident that would have taken it; no such storm is compared.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from stormfold.chain import Known, KnownIncident
from stormfold.correlation import Correlation, RecordPlace
from stormfold.group import OVERFLOW_LABEL
from stormfold.incident import Incident
from stormfold.incident_part import Part
from stormfold.scope import ScopeKey
from stormfold.storm import Aggregate
from stormfold.text import pluralize

NAMED = 3
"""Most incidents that the verdict names."""
_COUNTS = (
    "name", "alert_count", "storm_count", "other_group_count", "first_seen", "last_seen", "until", "close_reason",
    "continues", "severity", "first_storm",
)  # fmt: skip
"""Fields that are the same even if the lists of an incident are not complete."""


class StormRecord(NamedTuple):
    """A record of `storms`."""

    place: RecordPlace
    aggregate: Aggregate


class IncidentRecord(NamedTuple):
    """A record of `incidents`."""

    timestamp: int
    """When it was appended."""
    incident: Incident


@dataclass(slots=True)
class IncidentReport:
    """The incidents in `incidents`, and those that the storms give."""

    closed_before: int
    """Everything that begins before it was published when incidents were published last."""
    same: int = 0
    """Incidents that are as the storms give them."""
    missing: list[str] = field(default_factory=list)
    """Names of incidents that are not published."""
    different: list[str] = field(default_factory=list)
    """Names of incidents that were published with other storms or counts."""
    expired: int = 0
    """Incidents that began before retention deleted storms: they are not compared."""
    pending: int = 0
    """Storms whose incident is not final."""
    late: int = 0
    """Storms that were published after the incident of their time."""
    off: int = 0
    """Storms that join no incident by their route or the configuration."""
    overflow: int = 0
    """Storms of overflow groups, which join no incident."""

    @property
    def matches(self) -> bool:
        """Whether every incident is as the storms give it."""
        return not self.missing and not self.different

    @property
    def verdict(self) -> str:
        """The result in one or two sentences."""
        apart = [
            f"{pluralize(number, 'storm')} {state}"
            for number, state in (
                (self.pending, "in incidents that are not over"),
                (self.late, "published too late for an incident"),
                (self.off, "outside of incidents by configuration"),
                (self.overflow, "of an overflow group"),
            )
            if number
        ]
        rest = f" Not in them: {', '.join(apart)}." if apart else ""
        if self.matches:
            return f"Incidents: {self.same:,} as the storms give them.{rest}"
        wrong = [
            f"{len(names):,} {state} ({', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''})"
            for names, state in ((self.missing, "missing"), (self.different, "different"))
            if names
        ]
        return f"The incidents do not match the storms: {', '.join(wrong)}, {self.same:,} as they should be.{rest}"


def compare_incidents(
    storms: Iterable[StormRecord], published: Iterable[IncidentRecord], closed_before: int, edge: int | None
) -> IncidentReport:
    """Compares the incidents that are final at `closed_before`.

    `edge` is a time from which on no storm has expired; None if none has at all. Of several records of a name the first
    counts.
    """
    report = IncidentReport(closed_before)
    firsts: dict[str, StormRecord] = {}
    for record in sorted(storms, key=lambda record: (record.place.timestamp, record.place[:2])):
        firsts.setdefault(record.aggregate.name, record)
    incidents: dict[str, IncidentRecord] = {}
    contradicted = set()
    for found in sorted(published, key=lambda record: record.timestamp):
        if incidents.setdefault(found.incident.name, found).incident != found.incident:
            contradicted.add(found.incident.name)
    late = _late(firsts.values(), incidents.values())
    known: dict[str, Incident] = {}
    correlation = Correlation(sys.maxsize // 2, sys.maxsize // 2)
    for name, (_, incident) in incidents.items():
        if edge is not None and incident.first_seen < edge:
            correlation.know(incident)
            report.expired += 1
        elif incident.first_storm in late:
            late.update(storm.name for storm in incident.storms)
        else:
            known[name] = incident
    for place, aggregate in firsts.values():
        if aggregate.aggregate_class == "Storm":
            report.late += aggregate.name in late
            if aggregate.scope is None:
                overflow = OVERFLOW_LABEL in aggregate.group_labels
                report.overflow += overflow
                report.off += not overflow
        if aggregate.name not in late:
            correlation.add(aggregate, place)
    _compare(report, correlation, known, contradicted, edge)
    return report


def _compare(
    report: IncidentReport, correlation: Correlation, known: dict[str, Incident], contradicted: set[str],
    edge: int | None,
) -> None:  # fmt: skip
    final = {forming.name: forming for forming in correlation.final(report.closed_before)}
    for name, forming in final.items():
        if name not in known:
            if edge is None or forming.first >= edge:
                report.missing.append(name)
        elif name in contradicted or not _is_same(forming.build(), known[name]):
            report.different.append(name)
        else:
            report.same += 1
    forming_now = {found.name: found for key in correlation.scopes for found in correlation.forming(key)}
    pending = {name: found for name, found in forming_now.items() if name not in final}
    # What is pending here may have been published since `closed_before`.
    report.pending = sum(len(found.storms) for name, found in pending.items() if name not in known)
    report.different += [name for name in known if name not in forming_now]


def _is_same(one: Incident, other: Incident) -> bool:
    if one.truncated or other.truncated:
        return all(getattr(one, name) == getattr(other, name) for name in _COUNTS)
    return one == other


def _late(storms: Iterable[StormRecord], incidents: Iterable[IncidentRecord]) -> set[str]:
    """Names of aggregates that were published after an incident that would have taken them."""
    of_scope: defaultdict[ScopeKey, Known] = defaultdict(Known)
    late = set()
    waiting = sorted(incidents, key=lambda record: record.timestamp, reverse=True)
    for place, aggregate in sorted(storms, key=lambda record: record.place.timestamp):
        while waiting and waiting[-1].timestamp < place.timestamp:
            incident = waiting.pop().incident
            of_scope[incident.scope.key].add(KnownIncident.of(incident))
        part = Part.of(aggregate)
        if part is not None and _comes_late(part, of_scope[part.scope.key]):
            late.add(part.name)
    return late


def _comes_late(part: Part, known: Known) -> bool:
    if known.has_done(part):
        return True
    newest, latest = known.newest, known.latest
    return part.storm and newest is not None and latest is not None and part.first <= latest + newest.gap
