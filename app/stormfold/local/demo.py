"""The demo: tells the incident to a real pipeline, watches it, and waits until every alert is in a closed storm."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

from prometheus_client import Counter

from stormfold import metrics
from stormfold.audit import AuditReport, audit
from stormfold.config import Config
from stormfold.errors import ActionRequired
from stormfold.group import pattern
from stormfold.local.incident import Told
from stormfold.local.publish_incident import tell
from stormfold.local.stack import follow_storms, run_in_background, working
from stormfold.settings import Settings
from stormfold.storm import Aggregate
from stormfold.worker import Worker

CONFIG = """\
# Small windows, so that storms close while you watch; by default 60s, 10s and 300s.
windows: {gap: 2s, grace: 1s, slice: 20s}
routes:
# Whatever happens to a node is one storm; all other alerts go by name and cluster, as by default.
- {name: nodes, match: 'alertname=~"(Kube)?(Node|let).*"', group_by: [node], storm_when: {alerts: 3}}
silences:
- {name: staging is being rebuilt, match: 'cluster="staging"'}
"""
"""The demo's configuration."""

LOOK_EVERY = 0.25
"""Seconds between two pictures of what goes on."""
READY_SECONDS = 60.0
DRAIN_SECONDS = 120.0
"""Longest that a machine with better things to do may take."""


class View(Protocol):
    """Shows the demo while it runs."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def say(self, line: str) -> None:
        """What is done next."""

    def show(self, pulse: "Pulse") -> None:
        """What goes on now; called every `LOOK_EVERY` seconds."""


class Open(NamedTuple):
    """A group that something may still join."""

    pattern: str
    silenced: bool
    alerts: int
    first: int
    """Event time of its first alert (ms); `last` likewise."""
    last: int


class Flow(NamedTuple):
    """What has gone through one stage."""

    alerts: int
    lag: int | None = None
    """Records that wait for it, where it reads a topic."""


@dataclass(frozen=True)
class Pulse:
    """What goes on at one moment."""

    at: float
    """Seconds since the incident began; negative: it has not begun yet."""
    stages: dict[str, Flow]
    """By name, in the order of the pipeline."""
    open: Sequence[Open]
    closed: Sequence[Aggregate]
    """In the order they were closed."""
    written: int
    """Manifests."""
    dead: int
    horizon_delay: float | None
    """Seconds; None before anything is known."""
    redis_bytes: int
    problems: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """How it ended."""

    books: AuditReport
    storms: Sequence[Aggregate]
    written: int
    seconds: float
    """From the first record to the last manifest."""


@dataclass
class Demo:
    """One telling, on servers that run; counts from the metrics, so once in a process."""

    settings: Settings
    config: Config
    records: Sequence[Told]
    view: View
    _began: float | None = None
    _told: int = 0
    _open: list[Open] = field(default_factory=list)
    _storms: dict[str, Aggregate] = field(default_factory=dict)

    async def run(self) -> Outcome:
        """Tells the incident and waits for the end. Raises `ActionRequired` or `Retry`."""
        async with (
            working(self.settings, self.config) as worker,
            run_in_background(follow_storms(self.settings, self._see, past=True)),
            run_in_background(self._watch(worker)),
        ):
            await self._until(lambda: _ready(worker), READY_SECONDS, worker, "the worker to begin")
            self._began = time.monotonic()
            await tell(self.settings, self.records, self._count)
            self.view.say("All is told; the last storms close once they have been quiet")
            await self._until(lambda: self._drained(worker), DRAIN_SECONDS, worker, "the storms to close")
            seconds = time.monotonic() - self._began
            self.view.show(self._pulse(worker))
            self.view.say("Proving the books")
            books = await audit(self.settings, self.config, worker.store)
            await self._until(
                lambda: len(self._storms) >= books.aggregates, READY_SECONDS, worker, "the storms to be read"
            )
            return Outcome(books, tuple(self._storms.values()), _written(), seconds)

    def _count(self, told: Told) -> None:
        self._told += told.alerts

    def _see(self, storm: Aggregate) -> None:
        self._storms[storm.name] = storm

    def _drained(self, worker: Worker) -> bool:
        """Whether every alert is in a storm, and every storm that becomes a manifest is one."""
        read, closed = _total(metrics.ALERTS_READ), _total(metrics.ALERTS_CLOSED)
        clock = worker.close.clock if worker.close else None
        due = [storm for storm in self._storms.values() if storm.aggregate_class in self.config.publish]
        return (
            read >= self._told
            and closed >= read
            and clock is not None
            and clock.open_groups == 0
            and sum(storm.alert_count for storm in self._storms.values()) >= self._told
            and _written() + _total(metrics.STORMS_WRITTEN, outcome="parked") >= len(due)
        )

    async def _until(self, done: Callable[[], bool], seconds: float, worker: Worker, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                raise ActionRequired(
                    f"waited {seconds:.0f} s for {what}: {'; '.join(_problems(worker)) or 'nothing is amiss'}"
                )
            await asyncio.sleep(0.05)

    async def _watch(self, worker: Worker) -> None:
        while True:
            epoch = await worker.store.epoch()
            if epoch is not None:
                self._open = [
                    Open(
                        pattern(group.meta.labels), group.meta.silenced,
                        sum(bucket.alerts for bucket in group.buckets),
                        min(bucket.first for bucket in group.buckets),
                        max(bucket.last for bucket in group.buckets),
                    )
                    for group in await worker.store.open_buckets(epoch)
                    if group.buckets
                ]  # fmt: skip
            self.view.show(self._pulse(worker))
            await asyncio.sleep(LOOK_EVERY)

    def _pulse(self, worker: Worker) -> Pulse:
        lag = {member.name: sum(member.lag.values()) for member in worker.members()}
        closed = list(self._storms.values())
        due = sum(storm.alert_count for storm in closed if storm.aggregate_class in self.config.publish)
        clock = worker.close.clock if worker.close else None
        horizon = clock.horizon if clock else None
        return Pulse(
            at=time.monotonic() - self._began if self._began is not None else -1.0,
            stages={
                "producer": Flow(self._told),
                "intake": Flow(_total(metrics.ALERTS_READ), lag.get("intake", 0)),
                "fold": Flow(_total(metrics.ALERTS_FOLDED), lag.get("fold", 0)),
                "close": Flow(_total(metrics.ALERTS_CLOSED)),
                "emit": Flow(due, lag.get("emit", 0)),
            },
            open=self._open,
            closed=closed,
            written=_written(),
            dead=_total(metrics.DEAD_LETTERS),
            horizon_delay=None if horizon is None else time.time() - horizon / 1000,
            redis_bytes=worker.redis_monitor.memory.used if worker.redis_monitor.memory else 0,
            problems=_problems(worker),
        )


def _ready(worker: Worker) -> bool:
    """Whether every stage has its partitions, and event time goes on."""
    clock = worker.close.clock if worker.close else None
    return clock is not None and clock.horizon is not None and all(member.assigned() for member in worker.members())


def _written() -> int:
    return _total(metrics.STORMS_WRITTEN, outcome="created") + _total(metrics.STORMS_WRITTEN, outcome="exists")


def _total(counter: Counter, **labels: str) -> int:
    samples = (sample for metric in counter.collect() for sample in metric.samples)
    return int(
        sum(
            sample.value
            for sample in samples
            if sample.name.endswith("_total") and labels.items() <= sample.labels.items()
        )
    )


def _problems(worker: Worker) -> list[str]:
    return [f"{name}: {reported.problem}" for name, reported in worker.health.reported.items()]
