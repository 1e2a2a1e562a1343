"""Intake: records of `alerts` in; alerts with their event time, keyed by fingerprint, and marks of progress out.

Order matters: send, await, commit (offset and event time), only then mark. So no mark promises what a restart,
beginning from the commit, could not keep.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Self

import structlog
from aiokafka import AIOKafkaConsumer

from stormfold import metrics
from stormfold.config import Config
from stormfold.decoding import Poison
from stormfold.errors import Retry, StormfoldError
from stormfold.eventtime import Progress
from stormfold.health import Health
from stormfold.kafka._patches import Record
from stormfold.kafka.batch import Batch, StartPosition
from stormfold.kafka.committed import CommitMetadata, Committed, read_committed
from stormfold.kafka.dlq import send_to_dlq
from stormfold.kafka.member import GroupMember
from stormfold.kafka.producer import Pair, Producer, ProducerRecord
from stormfold.keyed_record import Marks, encode_alert, encode_marks
from stormfold.redis.store import StateVersion, Store
from stormfold.series import SeriesReader
from stormfold.settings import Settings
from stormfold.stages.skip_expired import skip_expired
from stormfold.stages.state_version import ensure_state_version, newest_horizon

log = structlog.get_logger(__name__)

MARK_AFTER_BATCH = 0.25
"""Seconds between marks while alerts flow."""
MARK_IDLE = 1.0
"""Seconds between marks while none do: the horizon moves on in silence too."""
BACKOFF = 1.0
"""Seconds to wait after a failed delivery."""
AT_ONCE = 10_000
"""Alerts that are worked out and sent at once: records may have hundreds each, and nothing else is done meanwhile."""


@dataclass(slots=True)
class _Part:
    """Some of a poll, and how far it goes in each partition of `alerts`."""

    outgoing: defaultdict[int, list[Pair]] = field(default_factory=lambda: defaultdict(list))
    """Plain pairs: to make an `ProducerRecord` of each would cost more than to pack its head."""
    dead: list[tuple[int, Record, str]] = field(default_factory=list)
    progress: dict[int, Progress] = field(default_factory=dict)
    position: dict[int, tuple[int, int]] = field(default_factory=dict)
    alerts: int = 0
    late: int = 0

    def until(self, partition: int, progress: Progress, last: Record, alerts: int) -> Self:
        """It goes so far in a partition, and has so many alerts in all."""
        self.progress[partition] = replace(progress)
        self.position[partition] = (last.offset + 1, last.timestamp)
        self.alerts = alerts
        return self


class Intake:
    """The stage's state: progress and position of each assigned partition of `alerts`."""

    name = "intake"

    def __init__(self, settings: Settings, config: Config, store: Store, health: Health, member: GroupMember) -> None:
        self._settings = settings
        self._member = member
        self._config = config
        self._store = store
        self._health = health
        self._reader = SeriesReader(config)
        self._producer = Producer(settings, self.name)
        self._epoch: StateVersion | None = None
        self._horizon: int | None = None
        self._passed: int | None = None
        """The latest horizon there ever was."""
        self._progress: dict[int, Progress] = {}
        self._position: dict[int, tuple[int, int]] = {}
        self._base: dict[int, int] = {}
        self._marked = 0.0
        self._started = time.time_ns() // 1_000_000
        metrics.DEAD_LETTERS.labels(settings.alerts_dlq_topic)

    async def start_positions(self, consumer: AIOKafkaConsumer, partitions: set[int]) -> dict[int, StartPosition]:
        """Continues from the commits, which carry the event time reached."""
        await skip_expired(self._store, consumer, self._settings)
        state = await ensure_state_version(self._store, consumer, self._settings, self._config.windows, self._started)
        self._epoch = state.epoch
        committed = await intake_positions(self._settings, self._store)
        starts = {}
        clock = await self._store.clock(state.epoch)
        self._horizon, self._passed = clock.horizon, await newest_horizon(self._settings, clock)
        self._progress, self._position, self._base = {}, {}, {}
        for partition in partitions:
            if partition in committed:
                offset, note = committed[partition]
                starts[partition] = StartPosition(offset, note.t)
                self._progress[partition] = Progress(note.e)
                self._position[partition] = (offset, note.t)
                self._base[partition] = note.b
            else:
                starts[partition] = StartPosition(None)
                self._progress[partition] = Progress()
        self._member.event_times = self._reached()
        return starts

    async def process(self, batch: Batch) -> None:
        """Sends a poll's alerts, part by part; commits and marks when it is time to."""
        if not self._member.is_current(batch):
            return
        assert self._epoch is not None
        read = 0
        try:
            for part in self._parts(batch, self._epoch):
                if read:
                    await self._mark_in_time(read)
                    if not self._member.is_current(batch):
                        return
                await self._send(part)
                read += part.alerts + len(part.dead)
            self._end(batch)
            await self._mark_in_time(read)
        except StormfoldError as error:
            if self._health.set_unhealthy(self.name, str(error), error.hint):
                log.warning("cannot deliver", stage=self.name, error=str(error))
            await self._member.sleep_current(batch, BACKOFF)
            self._member.rewind()

    async def stop(self) -> None:
        """Ends the connections."""
        await self._producer.stop()

    def _parts(self, batch: Batch, epoch: StateVersion) -> Iterator[_Part]:
        """Parts of a poll, `AT_ONCE` alerts or little more, each worked out after the one before is sent."""
        now = time.time_ns() // 1_000_000
        partitions, grace = epoch.partitions, epoch.windows.grace
        part = _Part()
        outgoing, alerts = part.outgoing, 0
        for partition, records in batch.records.items():
            # A copy: were it not delivered, a commit on the way out must not say that event time had come so far.
            progress = replace(self._progress[partition])
            base = self._base.get(partition, 0)
            if self._passed is not None:
                # Behind it only after a stall: what comes then is late. Said by fold, a rebuild would not know of it.
                progress.advance_to(self._passed)
            stamps = progress.stamps((record.timestamp for record in records), now, grace)
            for record, (stamp, late) in zip(records, stamps, strict=True):
                try:
                    keyed = self._reader.parse(record.value, record.headers, stamp)
                except Poison as reason:
                    part.dead.append((partition, record, str(reason)))
                    continue
                for index, (alert, resolved) in enumerate(keyed):
                    body = alert.body_at(stamp) if alert.silences else alert.body
                    value = encode_alert(body, stamp, resolved, late, partition, base + record.offset, index)
                    outgoing[alert.number % partitions].append((alert.key, value))
                alerts += len(keyed)
                if late:
                    part.late += len(keyed)
                if alerts >= AT_ONCE:
                    yield part.until(partition, progress, record, alerts)
                    part = _Part()
                    outgoing, alerts = part.outgoing, 0
            part.until(partition, progress, records[-1], alerts)
        yield part

    async def _send(self, part: _Part) -> None:
        if part.outgoing:
            await self._producer.send(self._settings.keyed_topic, part.outgoing)
        for partition, record, reason in part.dead:
            origin = f"{self._member.topic}-{partition}-{record.offset}"
            await send_to_dlq(self._producer, self._settings.alerts_dlq_topic, record, origin, reason)
        self._progress |= part.progress
        self._position |= part.position
        self._member.event_times = self._reached()
        metrics.ALERTS_READ.inc(part.alerts)
        metrics.ALERTS_LATE.inc(part.late)
        if part.alerts:
            metrics.BATCH_ALERTS.labels(self.name).observe(part.alerts)

    def _end(self, batch: Batch) -> None:
        """All of the poll was sent: the partitions that it has read to their ends have come to its time."""
        for partition, end in batch.ends.items():
            self._progress[partition].advance_to(end.as_of)
            offset, timestamp = self._position.get(partition, (0, -1))
            self._position[partition] = (max(offset, end.offset), timestamp)
        self._member.event_times = self._reached()

    async def commit(self) -> set[int]:
        """Commits what was delivered of the partitions that are still this member's; returns those."""
        assigned = self._member.assigned()
        notes = {
            partition: (offset, self._note(partition, timestamp).encode())
            for partition, (offset, timestamp) in self._position.items()
            if partition in assigned
        }
        if not notes or not await self._member.commit(notes):
            return set()
        with suppress(Retry):
            await self._store.keep_intake(notes)
        return set(notes)

    def _reached(self) -> dict[int, int]:
        return {partition: at.reached for partition, at in self._progress.items() if at.reached is not None}

    def _note(self, partition: int, timestamp: int) -> CommitMetadata:
        return CommitMetadata(e=self._progress[partition].reached, b=self._base.get(partition, 0), t=timestamp)

    async def _mark_in_time(self, read: int) -> None:
        assert self._epoch is not None
        if time.monotonic() - self._marked >= (MARK_AFTER_BATCH if read else MARK_IDLE):
            await self._mark(self._epoch)

    async def _mark(self, epoch: StateVersion) -> None:
        for partition in self._progress.keys() - self._position.keys():
            # Nothing was read of it yet, and nothing committed: its end is its beginning.
            self._position[partition] = (await self._member.beginning_offset(partition), -1)
        committed = await self.commit()
        if not committed:
            return
        self._marked = time.monotonic()
        reached = {partition: at for partition, at in self._reached().items() if partition in committed}
        if reached:
            # The producer may not know yet of a partition that was added: it would not count for the horizon.
            partitions = max(await self._producer.partitions(self._member.topic), 1 + max(reached))
            marks = Marks(partitions=partitions, progress=reached, grace=epoch.windows.grace)
            value = encode_marks(marks)
            await self._producer.send(
                self._settings.keyed_topic, {p: [ProducerRecord(None, value)] for p in range(epoch.partitions)}
            )
        self._health.set_healthy(self.name)
        await self._hold(epoch, reached)

    async def _hold(self, epoch: StateVersion, reached: dict[int, int]) -> None:
        try:
            now = await self._store.epoch()
            if now is not None:
                if now.partitions != epoch.partitions:
                    # All that was sent is committed, so nothing is sent again to other partitions.
                    self._member.rewind()
                    return
                self._epoch = now
                self._horizon = (await self._store.clock(now)).horizon
        except Retry as error:
            log.debug("horizon unknown", error=str(error))
        self._passed = max(filter(None, (self._passed, self._horizon)), default=None)
        base = self._horizon if self._horizon is not None else min(reached.values(), default=0)
        self._member.set_paused({p for p, time in reached.items() if time > base + epoch.windows.slice_length})


async def intake_positions(settings: Settings, store: Store) -> Committed:
    """Returns what intake has committed. Raises `Retry` or `ActionRequired`.

    Kafka forgets it with a topic that is deleted, or a group that is idle for too long. Then the copy in Redis counts:
    without it new alerts would be dropped as duplicates, or old ones counted again.
    """
    kept = {p: (offset, CommitMetadata.decode(note)) for p, (offset, note) in (await store.kept_intake()).items()}
    return kept | await read_committed(settings, settings.consumer_group("intake"), settings.alerts_topic)
