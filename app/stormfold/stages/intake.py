"""Intake: records of `alerts` in; alerts with their event time, keyed by fingerprint, and watermark records out.

The order matters: send, wait for acknowledgements, commit offset and event time, then write marks. So no mark promises
an event time that intake could fall behind when it restarts from the commit.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Self

import structlog
from aiokafka import AIOKafkaConsumer

from stormfold import metrics
from stormfold.alert import Alert
from stormfold.attempts import Attempts
from stormfold.config import ReloadableConfig
from stormfold.decoding import Poison
from stormfold.errors import Retry, StormfoldError
from stormfold.eventtime import Progress
from stormfold.health import Health
from stormfold.kafka._patches import Record
from stormfold.kafka.batch import Batch
from stormfold.kafka.committed import CommitMetadata, Committed, read_committed
from stormfold.kafka.dlq import send_to_dlq
from stormfold.kafka.group_member import GroupMember
from stormfold.kafka.producer import Pair, Producer
from stormfold.keyed_record import LATE, NOT_QUALIFIED, RESOLVED, Marks, encode_marks, pack_alert
from stormfold.positions import Position
from stormfold.redis.store import Store
from stormfold.redis.versions import StateVersion
from stormfold.series import Keyed, SeriesReader
from stormfold.settings import Settings
from stormfold.stages.left_out import LeftOutAlerts
from stormfold.stages.state_version import ensure_state_version, newest_horizon

log = structlog.get_logger(__name__)

MARK_INTERVAL = 0.25
"""Seconds between marks while alerts arrive."""
IDLE_MARK_INTERVAL = 1.0
"""Seconds between marks while none do: the horizon advances in silence too."""
BACKOFF = 1.0
"""Seconds to wait after a failed delivery."""
MAX_ALERTS_PER_CHUNK = 10_000
"""Alerts that are encoded and sent at once. One record may hold hundreds, and encoding blocks the event loop. A poll of
more records would only take memory."""

_timestamp = attrgetter("timestamp")


@dataclass(slots=True)
class _Chunk:
    """A part of a poll, and how far it goes in each partition of `alerts`."""

    outgoing: defaultdict[int, list[Pair]] = field(default_factory=lambda: defaultdict(list))
    """Plain pairs: a `ProducerRecord` of each would cost more than encoding its head."""
    poison: list[tuple[int, Record, str]] = field(default_factory=list)
    """Partition, record and reason."""
    progress: dict[int, Progress] = field(default_factory=dict)
    positions: dict[int, Position] = field(default_factory=dict)
    alerts: int = 0
    late: int = 0
    skipped: int = 0
    """Records that hold no alert."""
    left_out: int = 0
    old: int = 0
    start_unknown: int = 0
    severity_unknown: int = 0

    def qualifies(self, keyed: Keyed, alert: Alert, event_time: int) -> bool:
        """`keyed.qualifies`; also counts old alerts, and unknown beginnings and severities."""
        if not keyed.series.severity.known:
            self.severity_unknown += 1
        start = alert.starts_at
        if start is None or start > event_time:
            self.start_unknown += 1
        elif event_time - start > keyed.new_for:
            self.old += 1
            return False
        return keyed.severe

    def finish(self, partition: int, progress: Progress, last: Record, alerts: int) -> Self:
        """Records how far the chunk goes in a partition, and its number of alerts in all partitions."""
        self.progress[partition] = replace(progress)
        self.positions[partition] = Position(last.offset + 1, last.timestamp)
        self.alerts = alerts
        return self


class Intake:
    """Reads `alerts`. The state is progress and position of each assigned partition."""

    name = "intake"

    def __init__(
        self, settings: Settings, configuration: ReloadableConfig, store: Store, health: Health, member: GroupMember
    ) -> None:
        self._settings = settings
        self._configuration = configuration
        self._loaded = configuration.current
        """The configuration that applies; see `_apply_configuration`."""
        self._store = store
        self._health = health
        self._member = member
        member.max_records = min(settings.max_poll_records, MAX_ALERTS_PER_CHUNK)
        self._reader = SeriesReader(self._loaded.config)
        self._producer = Producer(settings, self.name, settings.keyed_compression)
        self._version: StateVersion | None = None
        self._horizon: int | None = None
        self._latest_horizon: int | None = None
        """The latest horizon that there ever was, also before a loss of Redis."""
        self._progress: dict[int, Progress] = {}
        self._positions: dict[int, Position] = {}
        self._offset_base: dict[int, int] = {}
        self._sent: dict[int, int] = {}
        """Offset after the last record that was sent, by partition, even if it was not acknowledged."""
        self._marked_at = 0.0
        self._attempts = Attempts()
        self._left_out = LeftOutAlerts(health)
        metrics.DEAD_LETTERS.labels(settings.alerts_dlq_topic)

    async def start_positions(self, consumer: AIOKafkaConsumer, partitions: set[int]) -> dict[int, Position | None]:
        """Continues from the commits, which carry the event time reached."""
        state = await ensure_state_version(self._store, consumer, self._settings, self._loaded)
        committed = await intake_positions(self._settings, self._store)
        self._version = state.version
        clock = await self._store.clock(state.version)
        self._horizon, self._latest_horizon = clock.horizon, await newest_horizon(self._settings, clock)
        self._progress, self._positions, self._offset_base = {}, {}, {}
        self._sent = {partition: end for partition, end in self._sent.items() if partition in partitions}
        for partition in partitions:
            offset, note = committed.get(partition, (None, CommitMetadata()))
            self._progress[partition] = Progress(note.event_time)
            if offset is not None:
                self._positions[partition] = Position(offset, note.timestamp)
                self._offset_base[partition] = note.offset_base
        self._member.event_times = self._event_times()
        return {partition: self._positions.get(partition) for partition in partitions}

    async def process(self, batch: Batch) -> None:
        """Sends the alerts of a poll in chunks; commits and writes marks when they are due."""
        # A mark may find a newer version, which applies from the next poll: all marks of a poll state the grace under
        # which its alerts are stamped.
        version = self._version
        if not self._member.is_current(batch) or version is None:
            return
        if self._loaded is not self._configuration.current and not await self._apply_configuration():
            return
        records = 0
        try:
            for chunk in self._chunks(batch, version):
                if records:
                    await self._mark_if_due(version, MARK_INTERVAL)
                    if not self._member.is_current(batch):
                        return
                await self._send(chunk)
                records += chunk.alerts + len(chunk.poison)
            self._advance_at_ends(batch)
            await self._mark_if_due(version, MARK_INTERVAL if records else IDLE_MARK_INTERVAL)
        except StormfoldError as error:
            attempt = self._attempts.fail()
            if self._health.set_unhealthy(self.name, str(error), error.hint):
                at = {"topic": self._member.topic, "positions": self._member.positions}
                log.warning("cannot deliver", stage=self.name, **at, error=str(error), **attempt)
            await self._member.sleep_current(batch, BACKOFF)
            self._member.rewind()
        else:
            if recovery := self._attempts.succeed():
                log.info("delivered again", stage=self.name, topic=self._member.topic, **recovery)

    async def commit(self) -> set[int]:
        """Commits what was delivered of the partitions that are still assigned; returns those."""
        notes = {}
        for p in self._positions.keys() & self._member.assigned():
            offset, timestamp = self._positions[p]
            base = self._offset_base.get(p, 0)
            note = CommitMetadata(event_time=self._progress[p].reached, offset_base=base, timestamp=timestamp)
            notes[p] = offset, note.encode()
        if not notes or not await self._member.commit(notes):
            return set()
        with suppress(Retry):
            await self._store.save_intake_commits(notes)
        return set(notes)

    async def stop(self) -> None:
        await self._producer.stop()

    def _chunks(self, batch: Batch, version: StateVersion) -> Iterator[_Chunk]:
        """Yields a poll in chunks of about `MAX_ALERTS_PER_CHUNK`; each is encoded after the previous one was sent."""
        now = time.time_ns() // 1_000_000
        partitions, grace = version.partitions, version.windows.grace
        chunk = _Chunk()
        outgoing, alerts = chunk.outgoing, 0
        # This loop runs once for each alert: it calls little, and looks up little.
        parse = self._reader.parse
        for partition, records in batch.records.items():
            # A copy: if the chunk is not delivered, a commit must not carry its event time.
            progress = replace(self._progress[partition])
            base = self._offset_base.get(partition, 0)
            if self._latest_horizon is not None:
                # Only an idle partition can be behind it. Its alerts are late here and not in fold, because a rebuild
                # reads the keyed topic and must find the same event times.
                progress.advance_to(self._latest_horizon)
            stamps = progress.stamps(map(_timestamp, records), now, grace)
            for record, (event_time, late) in zip(records, stamps, strict=True):
                try:
                    parsed = parse(record.value, record.headers, event_time)
                except Poison as reason:
                    chunk.poison.append((partition, record, str(reason)))
                    continue
                if parsed and (left_out := parsed[0][1].left_out):
                    chunk.left_out += left_out
                offset = base + record.offset
                for index, (keyed, alert) in enumerate(parsed):
                    body = keyed.body_at(event_time) if keyed.silences else keyed.body
                    flags = LATE if late else 0
                    if alert.resolved:
                        flags |= RESOLVED
                    start = alert.starts_at
                    # Most alerts certainly qualify, which costs no call.
                    if (start is None or not 0 <= event_time - start <= keyed.certain_for) and not chunk.qualifies(
                        keyed, alert, event_time
                    ):
                        flags |= NOT_QUALIFIED
                    value = pack_alert(body, event_time, flags, partition, offset, index)
                    outgoing[keyed.number % partitions].append((keyed.key, value))
                alerts += len(parsed)
                if not parsed:
                    chunk.skipped += 1
                if late:
                    chunk.late += len(parsed)
                if alerts >= MAX_ALERTS_PER_CHUNK:
                    yield chunk.finish(partition, progress, record, alerts)
                    chunk = _Chunk()
                    outgoing, alerts = chunk.outgoing, 0
            chunk.finish(partition, progress, records[-1], alerts)
        yield chunk

    async def _apply_configuration(self) -> bool:
        """Applies a reloaded configuration once all that was sent is committed; returns whether the batch is current.

        Records that are sent again must give the same alerts in the same partitions, or fold would count them twice.
        """
        at = {p: self._positions.get(p, Position(0)).offset for p in self._member.assigned()}
        if any(at.get(partition, end) < end for partition, end in self._sent.items()):
            return True
        committed = await self.commit()
        if committed != self._positions.keys() & self._member.assigned():
            return True
        before, self._loaded = self._loaded, self._configuration.current
        self._reader = SeriesReader(self._loaded.config)
        log.info("configuration applied", stage=self.name, positions=self._member.positions)
        if self._loaded.windows_at == before.windows_at:
            return True
        # The assignment of positions requests the new windows.
        self._member.rewind()
        return False

    async def _send(self, chunk: _Chunk) -> None:
        for partition, position in chunk.positions.items():
            self._sent[partition] = max(position.offset, self._sent.get(partition, 0))
        if chunk.outgoing:
            await self._producer.send(self._settings.keyed_topic, chunk.outgoing)
        for partition, record, reason in chunk.poison:
            origin = f"{self._member.topic}-{partition}-{record.offset}"
            await send_to_dlq(self._producer, self._settings.alerts_dlq_topic, record, origin, reason)
        self._progress |= chunk.progress
        self._positions |= chunk.positions
        self._member.event_times = self._event_times()
        metrics.ALERTS_READ.inc(chunk.alerts)
        metrics.ALERTS_LATE.inc(chunk.late)
        metrics.RECORDS_SKIPPED.inc(chunk.skipped)
        if chunk.left_out:
            self._left_out.add(chunk.left_out)
        metrics.ALERTS_OLD.inc(chunk.old)
        metrics.ALERTS_START_UNKNOWN.inc(chunk.start_unknown)
        metrics.ALERTS_SEVERITY_UNKNOWN.inc(chunk.severity_unknown)
        if chunk.alerts:
            metrics.BATCH_ALERTS.labels(self.name).observe(chunk.alerts)

    def _advance_at_ends(self, batch: Batch) -> None:
        """Advances event time to the wall clock in partitions of which everything was sent."""
        for partition, end in batch.ends.items():
            self._progress[partition].advance_to(end.as_of)
            at = self._positions.get(partition, Position(0))
            self._positions[partition] = at._replace(offset=max(at.offset, end.offset))
        self._member.event_times = self._event_times()

    def _event_times(self) -> dict[int, int]:
        return {partition: at.reached for partition, at in self._progress.items() if at.reached is not None}

    async def _mark_if_due(self, version: StateVersion, interval: float) -> None:
        """Commits, then writes the marks of what was committed into every keyed partition."""
        if time.monotonic() - self._marked_at < interval:
            return
        for partition in self._progress.keys() - self._positions.keys():
            # Nothing was read or committed yet: the position is the beginning.
            self._positions[partition] = Position(await self._member.beginning_offset(partition))
        committed = await self.commit()
        if not committed:
            return
        self._marked_at = time.monotonic()
        event_times = {partition: at for partition, at in self._event_times().items() if partition in committed}
        if event_times:
            # The producer may not know an added partition yet, which must count for the horizon.
            partitions = max(await self._producer.partitions(self._member.topic), 1 + max(event_times))
            value = encode_marks(Marks(partitions=partitions, progress=event_times, grace=version.windows.grace))
            mark: Pair = (None, value)
            await self._producer.send(self._settings.keyed_topic, {p: [mark] for p in range(version.partitions)})
        self._health.set_healthy(self.name)
        self._left_out.update()
        await self._follow_horizon(version, event_times)

    async def _follow_horizon(self, version: StateVersion, event_times: dict[int, int]) -> None:
        """Pauses partitions that are more than a slice ahead of the horizon; rewinds if the partitioning changed."""
        try:
            current = await self._store.version()
            if current is not None:
                if current.partitions != version.partitions:
                    # All that was sent is committed, so nothing is sent again to other partitions.
                    self._member.rewind()
                    return
                self._version = current
                self._horizon = (await self._store.clock(current)).horizon
        except Retry as error:
            log.debug("horizon is unknown", stage=self.name, error=str(error))
        self._latest_horizon = max(filter(None, (self._latest_horizon, self._horizon)), default=None)
        base = self._horizon if self._horizon is not None else min(event_times.values(), default=0)
        limit = base + version.windows.slice_length
        self._member.set_paused({p for p, event_time in event_times.items() if event_time > limit})


async def intake_positions(settings: Settings, store: Store) -> Committed:
    """Returns what intake has committed. Raises `Retry` or `ActionRequired`.

    Kafka deletes commits with their topic, or after the group was inactive for long. Then the copy in Redis counts:
    without it new alerts would be dropped as duplicates, or old ones counted again.
    """
    kept = {p: (offset, CommitMetadata.decode(note)) for p, (offset, note) in (await store.intake_commits()).items()}
    return kept | await read_committed(settings, settings.consumer_group("intake"), settings.alerts_topic)
