"""The demo: publishes the incident to a real pipeline, watches it, and waits until every alert is in an aggregate."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client import Counter

from stormfold import metrics
from stormfold.announce.notice import Firing
from stormfold.audit import AuditReport, audit
from stormfold.config import Config
from stormfold.errors import ActionRequired, StormfoldError
from stormfold.incident import Incident
from stormfold.local.incident import IncidentRecord
from stormfold.local.publish_incident import publish_incident
from stormfold.local.stack import follow_aggregates, follow_incidents, run_in_background, running_worker
from stormfold.redis.open_groups import OpenGroups, TopGroups
from stormfold.settings import Settings
from stormfold.storm import Aggregate
from stormfold.worker import Worker

CONFIG = """\
# Small windows, so that storms close while you watch; the defaults are 60s, 10s and 300s.
windows: {gap: 2s, grace: 1s, slice: 20s}
routes:
# All alerts about one node are one storm; other alerts are grouped by name and cluster, as by default.
- {name: nodes, match: 'alertname=~"(Kube)?(Node|let).*"', group_by: [node], storm_when: {alerts: 3}}
# Events do not name their cluster. All storms of one cluster that follow each other are one incident.
default_labels: {cluster: eu1}
incidents: {by: [cluster], gap: 3s}
silences:
- {name: staging is being rebuilt, match: 'cluster="staging"'}
"""
"""The configuration of the demo."""

INTERVAL = 0.25
"""Seconds between two snapshots."""
READY_SECONDS = 60.0
DRAIN_SECONDS = 120.0
"""Longest wait for the pipeline on a machine under load."""
MAX_GROUPS = 40
"""Largest open groups in a snapshot: more than a terminal shows."""


class StageStats(NamedTuple):
    """What has passed one stage."""

    alerts: int
    lag: int | None = None
    """Records that the stage has not processed; None if it reads no topic."""


@dataclass(frozen=True)
class Snapshot:
    """The state of the pipeline at one moment."""

    at: float
    """Seconds since the incident began; negative before."""
    stages: dict[str, StageStats]
    """By name, in the order of the pipeline."""
    groups: TopGroups
    closed: Sequence[Aggregate]
    """In the order of their publication."""
    written: int
    """Manifests."""
    dead_letters: int
    horizon_delay: float | None
    """Seconds; None before the first horizon."""
    redis_bytes: int
    problems: Sequence[str]
    announced: "Announced | None"
    """The first incident that was announced; None before."""
    incidents: Sequence[Incident]
    """Those that are final."""


@dataclass(frozen=True)
class Announced:
    """An incident that was announced while it formed."""

    after: float
    """Seconds from its first alert to its announcement."""
    firing: Firing
    """The announcement as it is now, or was last."""


@dataclass(frozen=True)
class Outcome:
    """The result of the demo."""

    report: AuditReport
    aggregates: Sequence[Aggregate]
    incidents: Sequence[Incident]
    announced: Announced | None


@dataclass
class Demo:
    """One run on servers that are up. It counts from the metrics of the process, so it runs once in a process."""

    settings: Settings
    config: Config
    records: Sequence[IncidentRecord]
    step: Callable[[str], None]
    """Shows what is done next."""
    show: Callable[[Snapshot], None]
    """Shows the state of the pipeline, every `INTERVAL` seconds."""
    _began: float | None = None
    _published: int = 0
    _groups: TopGroups = field(default_factory=lambda: TopGroups(0, 0, ()))
    _aggregates: dict[str, Aggregate] = field(default_factory=dict)
    _incidents: dict[str, Incident] = field(default_factory=dict)
    _announced: Announced | None = None

    async def run(self) -> Outcome:
        """Publishes the incident and waits for the end. Raises `ActionRequired` or `Retry`."""
        async with (
            running_worker(self.settings, self.config) as worker,
            run_in_background(
                follow_aggregates(self.settings, self._see, past=True),
                follow_incidents(self.settings, self._see_incident, past=True),
                self._watch(worker),
            ),
        ):
            await self._until(lambda: _ready(worker), READY_SECONDS, worker, "the worker to start")
            self._began = time.monotonic()
            await publish_incident(self.settings, self.records, self._count)
            self.step("All alerts are published; the last storms close soon")
            await self._until(lambda: self._drained(worker), DRAIN_SECONDS, worker, "the storms to close")
            self.step("All storms are closed; their incident is final soon")
            await self._until(self._all_final, DRAIN_SECONDS, worker, "the incident to be final")
            self.show(self._snapshot(worker))
            self.step("Verifying that every alert was counted exactly once")
            report = await audit(self.settings, self.config, worker.store)
            await self._until(
                lambda: len(self._aggregates) >= report.aggregates, READY_SECONDS, worker, "the storms topic"
            )
            incidents = tuple(self._incidents.values())
            return Outcome(report, tuple(self._aggregates.values()), incidents, self._announced)

    def _count(self, record: IncidentRecord) -> None:
        self._published += record.alerts

    def _see(self, aggregate: Aggregate) -> None:
        self._aggregates[aggregate.name] = aggregate

    def _see_incident(self, incident: Incident) -> None:
        self._incidents[incident.name] = incident

    def _all_final(self) -> bool:
        """Whether every storm is in an incident, and every incident has a manifest."""
        storms = sum(aggregate.aggregate_class == "Storm" for aggregate in self._aggregates.values())
        joined = sum(incident.storm_count for incident in self._incidents.values())
        return joined >= storms and _written("AlertIncident") >= len(self._incidents)

    def _drained(self, worker: Worker) -> bool:
        """Whether every alert is in an aggregate, and every aggregate to write has a manifest."""
        read, closed = _total(metrics.ALERTS_READ), _total(metrics.ALERTS_CLOSED)
        clock = worker.close.clock if worker.close else None
        due = [aggregate for aggregate in self._aggregates.values() if aggregate.aggregate_class in self.config.publish]
        return (
            read >= self._published
            and closed >= read
            and clock is not None
            and clock.open_groups == 0
            and sum(aggregate.alert_count for aggregate in self._aggregates.values()) >= self._published
            and _written("AlertStorm") >= len(due)
        )

    async def _until(self, done: Callable[[], bool], seconds: float, worker: Worker, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                problems = "; ".join(_problems(worker)) or "no component reports a problem"
                raise ActionRequired(f"waited {seconds:.0f} s for {what}: {problems}")
            await asyncio.sleep(0.05)

    async def _watch(self, worker: Worker) -> None:
        open_groups = OpenGroups(worker.store, MAX_GROUPS)
        while True:
            # Redis may not answer for a moment, and another version may be opened between the two calls.
            with suppress(StormfoldError):
                if (version := await worker.store.version()) is not None:
                    self._groups = await open_groups.look(version)
            for firing in list(worker.correlate.announcer.firing.values())[:1] if worker.correlate else ():
                after = self._announced.after if self._announced else time.time() - firing.starts_at / 1000
                self._announced = Announced(after, firing)
            self.show(self._snapshot(worker))
            await asyncio.sleep(INTERVAL)

    def _snapshot(self, worker: Worker) -> Snapshot:
        lag = {member.name: sum(member.lag.values()) for member in worker.members()}
        closed = list(self._aggregates.values())
        due = sum(aggregate.alert_count for aggregate in closed if aggregate.aggregate_class in self.config.publish)
        clock = worker.close.clock if worker.close else None
        horizon = clock.horizon if clock else None
        return Snapshot(
            at=time.monotonic() - self._began if self._began is not None else -1.0,
            stages={
                "producer": StageStats(self._published),
                "intake": StageStats(_total(metrics.ALERTS_READ), lag.get("intake", 0)),
                "fold": StageStats(_total(metrics.ALERTS_FOLDED), lag.get("fold", 0)),
                "close": StageStats(_total(metrics.ALERTS_CLOSED)),
                "emit": StageStats(due, lag.get("emit", 0)),
            },
            groups=self._groups,
            closed=closed,
            written=_written("AlertStorm", "created", "exists"),
            dead_letters=_total(metrics.DEAD_LETTERS),
            horizon_delay=None if horizon is None else time.time() - horizon / 1000,
            redis_bytes=worker.redis_monitor.memory.used if worker.redis_monitor.memory else 0,
            problems=_problems(worker),
            announced=self._announced,
            incidents=tuple(self._incidents.values()),
        )


def _ready(worker: Worker) -> bool:
    """Whether every stage has partitions, and there is a horizon."""
    clock = worker.close.clock if worker.close else None
    return clock is not None and clock.horizon is not None and all(member.assigned() for member in worker.members())


def _written(kind: str, *outcomes: str) -> int:
    """Resources of a kind that emit is done with; with any outcome if none is given."""
    wanted = outcomes or ("created", "exists", "dead_letter")
    return sum(_total(metrics.RESOURCES_WRITTEN, kind=kind, outcome=outcome) for outcome in wanted)


def _total(counter: Counter, **labels: str) -> int:
    (metric,) = counter.collect()
    totals = (sample for sample in metric.samples if sample.name.endswith("_total"))
    return int(sum(sample.value for sample in totals if labels.items() <= sample.labels.items()))


def _problems(worker: Worker) -> list[str]:
    return [f"{problem.component}: {problem.problem}" for problem in worker.health.reported.values()]
