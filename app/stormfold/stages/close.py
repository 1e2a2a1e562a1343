"""Closer: moves the horizon, claims groups with something final, publishes their storms, then deletes those."""

import secrets
import time
from collections.abc import Iterable, Iterator

import structlog

from stormfold import metrics
from stormfold.config import Config
from stormfold.errors import Retry
from stormfold.eventtime import Horizon
from stormfold.health import Health
from stormfold.kafka.producer import Producer, ProducerRecord
from stormfold.manifest import encode_manifest
from stormfold.redis.store import Claimed, Clock, Completion, StaleStateVersion, StateVersion, Store
from stormfold.settings import Settings
from stormfold.stages.periodic import PeriodicService
from stormfold.stages.state_version import change_windows
from stormfold.storm import Aggregate, fold_segment
from stormfold.window import Segment, segments

log = structlog.get_logger(__name__)

INTERVAL = 0.25
"""Seconds between two claims while nothing is due."""
MOST = 200
"""Groups in one claim."""
MAX_ALERTS_PER_CHUNK = 20_000
"""Alerts in groups whose storms are built and settled at once, at least one group's: what bounds memory, and how long
the other stages wait."""


class Close(PeriodicService):
    """One closer; any number of them share the work by leases."""

    name = "close"

    def __init__(self, settings: Settings, config: Config, store: Store, health: Health) -> None:
        super().__init__(health)
        self._settings = settings
        self._config = config
        self._store = store
        self._producer = Producer(settings, self.name)
        self._epoch: StateVersion | None = None
        self._horizon = self._observer()
        self._token = secrets.token_hex(8)
        self.clock: Clock | None = None

    async def on_stop(self) -> None:
        """Ends the connection."""
        await self._producer.stop()

    async def run_once(self) -> float:
        """One claim, and what comes of it."""
        try:
            return 0.0 if await self._claim() else INTERVAL
        except StaleStateVersion:
            self._epoch = None
            return INTERVAL

    async def _claim(self) -> bool:
        """Returns whether anything was claimed."""
        if self._epoch is None:
            self._epoch = await self._store.epoch()
            self._horizon = self._observer()
            if self._epoch is None:
                # Fold or intake opens one as soon as it has partitions.
                return False
        epoch = self._epoch
        marked = await self._store.marks(epoch)
        now = time.time_ns() // 1_000_000
        seen, min_marks = None, 0
        if marked.alerts_partitions:
            seen = self._horizon.observe(marked.cells, epoch.partitions, marked.alerts_partitions, now, marked.beat)
            min_marks = sum(seen is not None and mark >= seen for mark in marked.cells.values())
        claimed_at = time.monotonic()
        clock, claimed = await self._store.claim(
            epoch,
            seen,
            min_marks=min_marks,
            most=MOST,
            token=self._token,
            lease=round(self._settings.close_lease * 1000),
        )
        self._tell(clock)
        if clock.open_groups == 0 and await change_windows(self._store, epoch):
            self._epoch = None
            return False
        if not claimed or clock.horizon is None:
            return False
        await self._finish(epoch, claimed, clock.horizon - epoch.windows.grace, claimed_at)
        return True

    async def _finish(self, epoch: StateVersion, claimed: list[Claimed], watermark: int, claimed_at: float) -> None:
        for number, groups in enumerate(_some(claimed)):
            if number and not self._outlasts(claimed_at):
                # What is not settled is this closer's own to claim anew.
                return
            await self._finish_some(epoch, groups, watermark, claimed_at)

    async def _finish_some(
        self, epoch: StateVersion, claimed: list[Claimed], watermark: int, claimed_at: float
    ) -> None:
        final: list[tuple[Claimed, Segment]] = []
        settlements = []
        for group in claimed:
            parts = segments(group.buckets, epoch.windows, epoch.rebuild)
            done = [part for part in parts if part.due <= watermark]
            rest = parts[len(done) :]
            for part in done:
                if epoch.rebuild is not None and part.start < epoch.rebuild.closed_before:
                    metrics.STORMS_DEDUPLICATED.inc()
                else:
                    final.append((group, part))
            settlements.append(
                Completion(
                    group.group,
                    delete=[bucket for part in done for bucket in part.buckets],
                    stay=sum(len(part.buckets) for part in rest),
                    due=rest[0].due if rest else 0,
                )
            )
        storms = await self._build(epoch, final)
        if storms:
            if not self._outlasts(claimed_at):
                raise Retry("the lease would end before the storms are surely delivered")
            await self._publish(storms)
        settled = await self._store.settle(epoch, self._token, settlements)
        metrics.COMPLETION_CONFLICTS.inc(settled.count(False))
        for (_, part), storm in zip(final, storms, strict=True):
            metrics.STORMS_CLOSED.labels(storm.aggregate_class).inc()
            metrics.ALERTS_CLOSED.labels(storm.aggregate_class).inc(storm.alert_count)
            metrics.CLOSE_LATENCY_SECONDS.observe(max(0, watermark - part.due) / 1000)

    async def _build(self, epoch: StateVersion, final: list[tuple[Claimed, Segment]]) -> list[Aggregate]:
        wanted = [(group.group, bucket) for group, part in final for bucket in part.buckets]
        details = iter(await self._store.details(epoch, wanted))
        return [
            fold_segment(part, [next(details) for _ in part.buckets], epoch.windows.gap, self._config.max_resources)
            for _, part in final
        ]

    def _outlasts(self, claimed_at: float) -> bool:
        """Whether the lease holds until what is sent now is acknowledged or given up."""
        return time.monotonic() - claimed_at < self._settings.close_lease - self._settings.delivery_timeout

    async def _publish(self, storms: list[Aggregate]) -> None:
        records = (ProducerRecord(storm.name.encode(), encode_manifest(storm)) for storm in storms)
        await self._producer.send_by_key(self._settings.storms_topic, records)

    def _observer(self) -> Horizon:
        windows = self._epoch.windows if self._epoch else self._config.windows
        return Horizon(self._config.idle_timeout, windows.slice_length)

    def _tell(self, clock: Clock) -> None:
        self.clock = clock
        metrics.OPEN_GROUPS.set(clock.open_groups)
        metrics.IDLE_PARTITION_PAIRS.set(len(self._horizon.idle))
        if clock.horizon is not None:
            metrics.HORIZON_DELAY_SECONDS.set(clock.horizon)


def _some(claimed: Iterable[Claimed]) -> Iterator[list[Claimed]]:
    """The groups, some at a time; there are no more members than alerts."""
    some: list[Claimed] = []
    alerts = 0
    for group in claimed:
        some.append(group)
        alerts += sum(bucket.alerts for bucket in group.buckets)
        if alerts >= MAX_ALERTS_PER_CHUNK:
            yield some
            some, alerts = [], 0
    if some:
        yield some
