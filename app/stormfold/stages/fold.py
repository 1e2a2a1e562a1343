"""Fold: keyed alerts into Redis, one script call per poll; the position moves with the aggregate or not at all."""

import time
from collections.abc import Mapping

import structlog
from aiokafka import AIOKafkaConsumer
from msgspec import structs

from stormfold import metrics
from stormfold.config import Config
from stormfold.errors import StormfoldError
from stormfold.eventtime import PartitionPair
from stormfold.health import Health
from stormfold.kafka.batch import Batch, StartPosition
from stormfold.kafka.committed import CommitMetadata
from stormfold.kafka.member import GroupMember
from stormfold.merge import LatePolicy, Merged, Merger, SourcePosition
from stormfold.positions import Position
from stormfold.redis.store import (
    BehindWatermark,
    Clock,
    Move,
    PositionConflict,
    RedisOutOfMemory,
    StaleStateVersion,
    StateVersion,
    Store,
)
from stormfold.settings import Settings
from stormfold.stages.redis_monitor import RedisMonitor
from stormfold.stages.skip_expired import skip_expired
from stormfold.stages.state_version import closed_until, ensure_state_version, newest_horizon

log = structlog.get_logger(__name__)

COMMIT_EVERY = 0.5
"""Seconds between commits: they serve rebuilds and dashboards, exactness does not need them."""
BACKOFF = 0.5
"""Seconds to wait while Redis is away or full."""


class Fold:
    """The stage's state: where each assigned keyed partition stands, and what was folded of it."""

    name = "fold"

    def __init__(
        self, settings: Settings, config: Config, store: Store, watch: RedisMonitor, health: Health, member: GroupMember
    ) -> None:
        self._settings = settings
        self._member = member
        self._config = config
        self._store = store
        self._watch = watch
        self._health = health
        self._merger = Merger(config.windows)
        self._epoch: StateVersion | None = None
        self._positions: dict[int, Position] = {}
        self._origins: dict[PartitionPair, SourcePosition] = {}
        self._closed: int | None = None
        self._horizon: int | None = None
        self._committed = 0.0
        self._noted = 0
        """The epoch that a commit has told Kafka of."""
        self._started = time.time_ns() // 1_000_000

    async def start_positions(self, consumer: AIOKafkaConsumer, partitions: set[int]) -> dict[int, StartPosition]:
        """Continues from the positions in Redis."""
        await skip_expired(self._store, consumer, self._settings)
        state = await ensure_state_version(self._store, consumer, self._settings, self._config.windows, self._started)
        self._epoch = state.epoch
        self._merger.windows = state.epoch.windows
        self._positions = {p: at for p, at in state.positions.items() if p in partitions}
        self._origins = {cell: origin for cell, origin in state.origins.items() if cell[0] in partitions}
        clock = await self._store.clock(state.epoch)
        self._closed = closed_until(state.epoch, clock)
        self._horizon = await newest_horizon(self._settings, clock)
        self._member.event_times = {}
        self._reach((await self._store.marks(state.epoch)).cells)
        return {p: StartPosition(at.offset, at.timestamp) for p, at in self._positions.items()}

    async def process(self, batch: Batch) -> None:
        """Folds a poll; waits while Redis is away or full, as long as the batch is current."""
        epoch = self._epoch
        if not self._member.is_current(batch) or epoch is None:
            return
        if batch.records:
            if self._noted != epoch.number and not await self.commit():
                # What is published of an epoch is of its windows: were they unknown once Redis is lost, it would be
                # counted again under others.
                await self._member.sleep_current(batch, BACKOFF)
                self._member.rewind()
                return
            await self._fold(batch, epoch)
        if time.monotonic() - self._committed >= COMMIT_EVERY:
            await self.commit()

    async def commit(self) -> bool:
        """Commits the positions, with C; returns whether the group took them."""
        if self._epoch is None:
            return False
        self._committed = time.monotonic()
        epoch, closed, horizon = self._epoch, self._closed, self._horizon
        assigned = self._member.assigned()
        note = CommitMetadata(
            closed_before=closed,
            horizon=horizon,
            state_version=epoch.number,
            keyed_partitions=epoch.partitions,
            windows=epoch.windows,
            windows_since=epoch.since,
        )
        offsets = {
            partition: (at.offset, structs.replace(note, timestamp=at.timestamp).encode())
            for partition, at in self._positions.items()
            if partition in assigned
        }
        if not offsets or not await self._member.commit(offsets):
            return False
        self._noted = epoch.number
        return True

    async def stop(self) -> None:
        """Nothing to end."""

    async def _fold(self, batch: Batch, epoch: StateVersion) -> None:
        moves = [
            Move(p, self._positions[p].offset, records[-1].offset + 1, records[-1].timestamp)
            for p, records in batch.records.items()
        ]
        begin = epoch.skip_before
        merged = self._merger.merge(batch.records, self._origins, LatePolicy(begin))
        while self._member.is_current(batch):
            try:
                started = time.perf_counter()
                limits = self._watch.limits
                clock, overflowed = await self._store.fold(epoch, moves, merged, limits)
            except BehindWatermark as behind:
                metrics.BATCHES_CLAMPED.inc()
                watermark = behind.horizon - epoch.windows.grace
                merged = self._merger.merge(batch.records, self._origins, LatePolicy(begin, watermark, behind.horizon))
            except (StaleStateVersion, PositionConflict) as why:
                log.info("reloading positions", stage=self.name, why=str(why))
                self._member.rewind()
            except StormfoldError as error:
                if isinstance(error, RedisOutOfMemory):
                    metrics.REDIS_OOM_REJECTIONS.inc()
                if self._health.set_unhealthy(self.name, str(error), error.hint):
                    log.warning("cannot fold", error=str(error))
                await self._member.sleep_current(batch, BACKOFF)
                # The limits of a Redis that was full are not those of one that has room again.
                await self._watch.look()
            else:
                metrics.FOLD_SECONDS.observe(time.perf_counter() - started)
                self._positions |= {move.partition: Position(move.end, move.timestamp) for move in moves}
                self._origins |= merged.origins
                self._reach(merged.marks)
                self._folded(clock, epoch)
                self._count(merged, overflowed)
                metrics.MAX_GROUPS.set(limits.max_groups)
                return

    def _folded(self, clock: Clock, epoch: StateVersion) -> None:
        self._closed = closed_until(epoch, clock)
        self._horizon = max(filter(None, (self._horizon, clock.horizon)), default=None)
        metrics.STATE_VERSION.set(epoch.number)
        self._health.set_healthy(self.name)

    def _reach(self, marks: Mapping[PartitionPair, int]) -> None:
        for (partition, _), reached in marks.items():
            self._member.event_times[partition] = max(reached, self._member.event_times.get(partition, reached))

    def _count(self, merged: Merged, overflowed: int) -> None:
        metrics.ALERTS_FOLDED.inc(merged.alerts)
        metrics.ALERTS_OVERFLOWED.inc(overflowed)
        metrics.ALERTS_DUPLICATE.inc(merged.duplicates)
        metrics.ALERTS_SKIPPED.inc(merged.skipped)
        if merged.alerts:
            metrics.BATCH_ALERTS.labels(self.name).observe(merged.alerts)
        if merged.unknown:
            metrics.KEYED_RECORDS_INVALID.inc(merged.unknown)
            log.warning("records of the keyed topic that stormfold did not write", records=merged.unknown)
