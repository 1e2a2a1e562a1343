"""Close: moves the horizon, claims groups with final segments, publishes those as aggregates, then deletes them."""

import secrets
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import structlog

from stormfold import metrics
from stormfold.config import ReloadableConfig
from stormfold.errors import Retry
from stormfold.eventtime import Horizon
from stormfold.health import Health
from stormfold.kafka.producer import Producer, ProducerRecord
from stormfold.manifest import encode_manifest
from stormfold.redis.clock import Clock
from stormfold.redis.close import Completion, OpenBuckets
from stormfold.redis.errors import StaleStateVersion
from stormfold.redis.store import Store
from stormfold.redis.versions import StateVersion
from stormfold.settings import Settings
from stormfold.stages.periodic import PeriodicService
from stormfold.stages.state_version import change_windows
from stormfold.storm import Aggregate, fold_segment, lacks_qualified
from stormfold.window import Segment, segments

log = structlog.get_logger(__name__)

INTERVAL = 0.25
"""Seconds between two claims while nothing is due. Fold wakes the closer of its worker when the horizon may advance."""
MAX_GROUPS_PER_CLAIM = 200
OLD_WARNING_INTERVAL = 600.0
"""Seconds between two warnings about groups of old alerts: senders repeat them all the time."""
MAX_ALERTS_PER_CHUNK = 20_000
"""Alerts in groups that are published and completed together; a single group may have more. This limits memory, and how
long the other stages wait."""


class Claim(NamedTuple):
    """Groups under lease, at a watermark."""

    version: StateVersion
    watermark: int
    groups: list[OpenBuckets]
    claimed_at: float
    """When the lease began at the earliest (monotonic, s)."""


class Close(PeriodicService):
    """One closer; any number of them share the work by leases."""

    name = "close"

    def __init__(self, settings: Settings, configuration: ReloadableConfig, store: Store, health: Health) -> None:
        super().__init__(health)
        self._settings = settings
        self._configuration = configuration
        config = self._config = configuration.current.config
        self._store = store
        self._producer = Producer(settings, self.name)
        self._version: StateVersion | None = None
        self._horizon = Horizon(config.idle_timeout, config.windows.slice_length)
        self._warned_at = float("-inf")
        self._token = secrets.token_hex(8)
        self.clock: Clock | None = None

    async def on_stop(self) -> None:
        await self._producer.stop()

    async def run_once(self) -> float:
        """Claims groups once and closes what is final in them."""
        self._config = self._configuration.current.config
        self._horizon.idle_timeout = self._config.idle_timeout
        try:
            claim = await self._claim()
            if claim is None:
                return INTERVAL
            await self._close(claim)
        except StaleStateVersion:
            self._version = None
            return INTERVAL
        return 0.0

    async def _claim(self) -> Claim | None:
        """Moves the horizon and claims groups; None if nothing is due."""
        version = self._version
        if version is None:
            version = self._version = await self._store.version()
            if version is None:
                # Fold or intake opens one as soon as it has partitions.
                return None
            self._horizon = Horizon(self._config.idle_timeout, version.windows.slice_length)
        horizon, min_marks = await self._observe_horizon(version)
        claimed_at = time.monotonic()
        lease = round(self._settings.close_lease * 1000)
        clock, groups = await self._store.claim(
            version, horizon, min_marks=min_marks, limit=MAX_GROUPS_PER_CLAIM, token=self._token, lease=lease
        )
        self.clock = clock
        metrics.OPEN_GROUPS.set(clock.open_groups)
        metrics.IDLE_PARTITION_PAIRS.set(len(self._horizon.idle))
        if clock.horizon is not None:
            metrics.HORIZON_DELAY_SECONDS.set(clock.horizon)
        if clock.open_groups == 0 and await change_windows(self._settings, self._store, version):
            self._version = None
            return None
        if not groups or clock.horizon is None:
            return None
        return Claim(version, clock.horizon - version.windows.grace, groups, claimed_at)

    async def _observe_horizon(self, version: StateVersion) -> tuple[int | None, int]:
        """The horizon that follows from the marks, and the number of marks that have reached it."""
        found = await self._store.marks(version)
        if not found.alerts_partitions:
            return None, 0
        now = time.time_ns() // 1_000_000
        horizon = self._horizon.observe(
            found.marks, version.partitions, found.alerts_partitions, now, found.marks_version
        )
        return horizon, sum(horizon is not None and mark >= horizon for mark in found.marks.values())

    async def _close(self, claim: Claim) -> None:
        for number, groups in enumerate(_chunks(claim.groups)):
            if number and not self._lease_covers_delivery(claim):
                # This closer may claim the rest again.
                return
            await self._close_chunk(claim._replace(groups=groups))

    async def _close_chunk(self, claim: Claim) -> None:
        """Publishes the final segments of the groups, then deletes them."""
        version = claim.version
        final: list[tuple[OpenBuckets, Segment]] = []
        completions = []
        for group in claim.groups:
            parts = segments(group.buckets, version.windows, version.rebuild)
            done = [part for part in parts if part.due <= claim.watermark]
            rest = parts[len(done) :]
            for part in done:
                if version.rebuild is not None and part.start < version.rebuild.closed_before:
                    metrics.STORMS_DEDUPLICATED.inc()
                else:
                    final.append((group, part))
            delete = [bucket for part in done for bucket in part.buckets]
            stay = sum(len(part.buckets) for part in rest)
            completions.append(Completion(group.group, delete=delete, stay=stay, due=rest[0].due if rest else 0))
        aggregates = await self._fold_segments(version, final)
        if aggregates:
            if not self._lease_covers_delivery(claim):
                raise Retry("the lease may end before the storms are delivered")
            records = [ProducerRecord(one.name.encode(), encode_manifest(one)) for one in aggregates]
            await self._producer.send_by_key(self._settings.storms_topic, records)
        completed = await self._store.complete(version, self._token, completions)
        metrics.COMPLETION_CONFLICTS.inc(completed.count(False))
        old = []
        for (group, part), aggregate in zip(final, aggregates, strict=True):
            if lacks_qualified(aggregate, group.meta):
                old.append(aggregate)
            metrics.STORMS_CLOSED.labels(aggregate.aggregate_class).inc()
            metrics.ALERTS_CLOSED.labels(aggregate.aggregate_class).inc(aggregate.alert_count)
            metrics.CLOSE_LATENCY_SECONDS.observe(max(0, claim.watermark - part.due) / 1000)
        self._report_old(old)

    async def _fold_segments(self, version: StateVersion, final: list[tuple[OpenBuckets, Segment]]) -> list[Aggregate]:
        wanted = [(group.group, bucket) for group, part in final for bucket in part.buckets]
        details = iter(await self._store.details(version, wanted))
        return [
            fold_segment(part, [next(details) for _ in part.buckets], version.windows.gap, self._config.max_resources)
            for _, part in final
        ]

    def _report_old(self, old: list[Aggregate]) -> None:
        """Counts groups that are not a storm only because their alerts are old, and warns about them now and then."""
        metrics.GROUPS_OLD.inc(len(old))
        if old and time.monotonic() - self._warned_at > OLD_WARNING_INTERVAL:
            self._warned_at = time.monotonic()
            log.warning(
                "groups have enough alerts for a storm, but too few of them are new and severe",
                groups=len(old),
                example=old[0].pattern,
                hint="see storm_when.new_for and storm_when.severity of the route",
            )

    def _lease_covers_delivery(self, claim: Claim) -> bool:
        """Whether the lease lasts until a record sent now is acknowledged, if the broker answers within its timeout."""
        age = time.monotonic() - claim.claimed_at
        return age < self._settings.close_lease - self._settings.delivery_timeout


def _chunks(groups: Iterable[OpenBuckets]) -> Iterator[list[OpenBuckets]]:
    """Splits groups by their alerts: a group has at most as many members."""
    chunk: list[OpenBuckets] = []
    alerts = 0
    for group in groups:
        chunk.append(group)
        alerts += sum(bucket.alerts for bucket in group.buckets)
        if alerts >= MAX_ALERTS_PER_CHUNK:
            yield chunk
            chunk, alerts = [], 0
    if chunk:
        yield chunk
