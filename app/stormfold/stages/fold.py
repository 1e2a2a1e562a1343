"""Fold: keyed alerts into Redis, one script call for each poll, which also moves the positions, or does nothing.

A poll with alerts of very many groups takes several calls.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from math import ceil
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer
from msgspec import structs

from stormfold import metrics
from stormfold.attempts import Attempts
from stormfold.config import ReloadableConfig
from stormfold.errors import StormfoldError
from stormfold.eventtime import PartitionPair
from stormfold.health import Health
from stormfold.kafka.batch import Batch, Records
from stormfold.kafka.committed import CommitMetadata
from stormfold.kafka.group_member import GroupMember
from stormfold.merge import LatePolicy, Merged, Merger, SourcePosition
from stormfold.positions import Position
from stormfold.redis.errors import BehindWatermark, PositionConflict, RedisOutOfMemory, StaleStateVersion
from stormfold.redis.fold import Move
from stormfold.redis.store import Store
from stormfold.redis.versions import StateVersion
from stormfold.settings import Settings
from stormfold.stages.redis_monitor import RedisMonitor
from stormfold.stages.state_version import closed_before, ensure_state_version, newest_horizon

log = structlog.get_logger(__name__)

COMMIT_INTERVAL = 0.5
"""Seconds between commits. Rebuilds and dashboards use them; exactness does not depend on them."""
ROWS_PER_CALL, ALERTS_PER_ROW = 250, 3
"""A poll of more rows with fewer alerts each is folded in portions: a row takes up to 20 µs in Redis, in which it
answers nobody else, and 2 kB of Lua's memory, which it keeps. Of a poll with more alerts per row, portions would
multiply the rows."""
BACKOFF = 0.5
"""Seconds to wait while Redis is unavailable or full."""


class Fold:
    """Folds keyed alerts into Redis.

    The state is the position of each assigned keyed partition and the newest source positions folded from it.
    """

    name = "fold"

    def __init__(
        self, settings: Settings, configuration: ReloadableConfig, store: Store, monitor: RedisMonitor, health: Health,
        member: GroupMember,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._member = member
        self._configuration = configuration
        self._loaded = configuration.current
        """The configuration whose windows were requested last."""
        self._store = store
        self._monitor = monitor
        self._health = health
        self._merger = Merger(self._loaded.config.windows)
        self._version: StateVersion | None = None
        self._positions: dict[int, Position] = {}
        self._source_positions: dict[PartitionPair, SourcePosition] = {}
        self._marks: dict[PartitionPair, int] = {}
        self.on_progress: Callable[[], object] = lambda: None
        """Called when all marks of the assigned partitions have advanced: the horizon may have, too."""
        self._closed_before: int | None = None
        self._horizon: int | None = None
        self._committed_at = 0.0
        self._committed_version = 0
        """Number of the state version in the last commit."""
        self._attempts = Attempts()

    async def start_positions(self, consumer: AIOKafkaConsumer, partitions: set[int]) -> dict[int, Position]:
        """Continues from the positions in Redis."""
        self._loaded = self._configuration.current
        state = await ensure_state_version(self._store, consumer, self._settings, self._loaded)
        version = self._version = state.version
        self._merger.windows = version.windows
        self._positions = {p: at for p, at in state.positions.items() if p in partitions}
        self._source_positions = {pair: at for pair, at in state.source_positions.items() if pair[0] in partitions}
        clock = await self._store.clock(version)
        self._closed_before = closed_before(version, clock)
        self._horizon = await newest_horizon(self._settings, clock)
        self._member.event_times, self._marks = {}, {}
        marks = (await self._store.marks(version)).marks
        self._advance({pair: reached for pair, reached in marks.items() if pair[0] in partitions})
        return self._positions

    async def process(self, batch: Batch) -> None:
        """Folds a poll; waits while Redis is unavailable or full, until the batch is no longer current."""
        version = self._version
        if not self._member.is_current(batch) or version is None:
            return
        if self._configuration.current.windows_at != self._loaded.windows_at:
            # The assignment of positions requests the new windows.
            self._member.rewind()
            return
        if batch.records:
            if self._committed_version != version.number and not await self.commit():
                # A commit must have the windows before anything is published under them: if Redis were lost, a rebuild
                # would count the alerts again under others.
                await self._member.sleep_current(batch, BACKOFF)
                self._member.rewind()
                return
            await self._fold(batch, version)
        if time.monotonic() - self._committed_at >= COMMIT_INTERVAL:
            await self.commit()

    async def commit(self) -> bool:
        """Commits the positions, with `closed_before`; returns whether the group took them."""
        version = self._version
        if version is None:
            return False
        self._committed_at = time.monotonic()
        metadata = CommitMetadata(
            closed_before=self._closed_before, horizon=self._horizon, state_version=version.number,
            keyed_partitions=version.partitions, windows=version.windows, windows_since=version.windows_since,
        )  # fmt: skip
        offsets = {}
        for partition in self._positions.keys() & self._member.assigned():
            offset, timestamp = self._positions[partition]
            offsets[partition] = offset, structs.replace(metadata, timestamp=timestamp).encode()
        if not offsets or not await self._member.commit(offsets):
            return False
        self._committed_version = version.number
        return True

    async def stop(self) -> None:
        """Has no connection of its own."""

    async def _fold(self, batch: Batch, version: StateVersion) -> None:
        """Folds a poll, in portions if it has many rows."""
        merged = self._merge(batch.records, LatePolicy(version.skip_before))
        count = ceil(len(merged.rows) / ROWS_PER_CALL)
        if count <= 1 or merged.alerts > len(merged.rows) * ALERTS_PER_ROW:
            await self._fold_merged(batch, batch.records, merged, version)
            return
        await self._fold_portions(batch, batch.records, count, version)

    async def _fold_portions(self, batch: Batch, records: Records, count: int, version: StateVersion) -> None:
        for portion in portions(records, count):
            if self._member.is_current(batch):
                merged = self._merge(portion, LatePolicy(version.skip_before))
                await self._fold_merged(batch, portion, merged, version)

    def _merge(self, records: Records, late_policy: LatePolicy) -> Merged:
        return self._merger.merge(records, self._source_positions, late_policy)

    async def _fold_merged(self, batch: Batch, records: Records, merged: Merged, version: StateVersion) -> None:
        """Folds records of a batch until it succeeds or the batch is no longer current."""
        moves = [
            Move(p, self._positions[p].offset, found[-1].offset + 1, found[-1].timestamp)
            for p, found in records.items()
        ]
        while self._member.is_current(batch):
            started = time.perf_counter()
            limits = self._monitor.limits
            try:
                clock, overflowed = await self._store.fold(version, moves, merged, limits)
            except BehindWatermark as behind:
                metrics.BATCHES_CLAMPED.inc()
                watermark = behind.horizon - version.windows.grace
                late_policy = LatePolicy(version.skip_before, watermark, behind.horizon)
                merged = self._merge(records, late_policy)
            except (StaleStateVersion, PositionConflict) as reason:
                log.info("loading positions again", stage=self.name, **self._place(batch), reason=str(reason))
                self._member.rewind()
            except StormfoldError as error:
                if isinstance(error, RedisOutOfMemory):
                    metrics.REDIS_OOM_REJECTIONS.inc()
                    if (calls := ceil(len(merged.rows) / ROWS_PER_CALL)) > 1:
                        # The call itself takes memory, so smaller ones may fit.
                        await self._fold_portions(batch, records, calls, version)
                        return
                await self._wait(batch, error)
            else:
                metrics.FOLD_SECONDS.observe(time.perf_counter() - started)
                metrics.MAX_GROUPS.set(limits.max_groups)
                self._positions |= {move.partition: Position(move.end, move.timestamp) for move in moves}
                self._source_positions |= merged.source_positions
                self._advance(merged.marks)
                self._closed_before = closed_before(version, clock)
                self._horizon = max(filter(None, (self._horizon, clock.horizon)), default=None)
                metrics.STATE_VERSION.set(version.number)
                self._health.set_healthy(self.name)
                if recovery := self._attempts.succeed():
                    log.info("folded again", stage=self.name, topic=self._member.topic, **recovery)
                self._count(merged, overflowed)
                return

    async def _wait(self, batch: Batch, error: StormfoldError) -> None:
        attempt = self._attempts.fail()
        if self._health.set_unhealthy(self.name, str(error), error.hint):
            log.warning("cannot fold", stage=self.name, **self._place(batch), error=str(error), **attempt)
        await self._member.sleep_current(batch, BACKOFF)
        # The limits of a full Redis do not apply once it has free memory.
        await self._monitor.update()

    def _place(self, batch: Batch) -> dict[str, Any]:
        """Fields for the log: the topic, and how far each partition of the batch is folded."""
        return {"topic": self._member.topic, "positions": {p: self._positions[p].offset for p in batch.records}}

    def _advance(self, marks: Mapping[PartitionPair, int]) -> None:
        before = min(self._marks.values(), default=0)
        for pair, reached in marks.items():
            partition = pair[0]
            self._marks[pair] = max(reached, self._marks.get(pair, reached))
            self._member.event_times[partition] = max(reached, self._member.event_times.get(partition, reached))
        if marks and min(self._marks.values()) > before:
            self.on_progress()

    def _count(self, merged: Merged, overflowed: int) -> None:
        metrics.ALERTS_FOLDED.inc(merged.alerts)
        metrics.ALERTS_OVERFLOWED.inc(overflowed)
        metrics.ALERTS_DUPLICATE.inc(merged.duplicates)
        metrics.ALERTS_SKIPPED.inc(merged.skipped)
        if merged.alerts:
            metrics.BATCH_ALERTS.labels(self.name).observe(merged.alerts)
        if merged.invalid:
            metrics.KEYED_RECORDS_INVALID.inc(merged.invalid)
            log.warning("the keyed topic has records that stormfold did not write", topic=self._settings.keyed_topic,
                        records=merged.invalid)  # fmt: skip


def portions(records: Records, count: int) -> Iterator[Records]:
    """Yields the records of a poll in at most `count` portions, each with a part of every partition."""
    for number in range(count):
        portion = {p: r[len(r) * number // count : len(r) * (number + 1) // count] for p, r in records.items()}
        if some := {p: r for p, r in portion.items() if r}:
            yield some
