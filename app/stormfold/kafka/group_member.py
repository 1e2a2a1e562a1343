"""A stage's member of its consumer group: joining, leaving, the state of assigned partitions, pausing, commits."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalGenerationError, KafkaError, RebalanceInProgressError
from aiokafka.structs import OffsetAndMetadata

from stormfold import metrics
from stormfold.attempts import Attempts, seconds_since
from stormfold.errors import StormfoldError
from stormfold.health import Health
from stormfold.kafka._patches import Consumer, raw_record
from stormfold.kafka.batch import Batch
from stormfold.kafka.client import client_options, diagnose, start_client
from stormfold.kafka.topics import partitions_of
from stormfold.settings import Settings

log = structlog.get_logger(__name__)

FETCH_WAIT_MS = 250
"""Longest that a broker waits for records. An idle partition's end is seen this often, so it is also the finest step
of event time."""
PARTITION_FETCH_BYTES = 1024 * 1024
"""Limit of one partition in a fetch response (bytes), some 2,000 alerts; a larger record is fetched alone. Responses
are held until they are polled: they are most of a worker's memory during a backlog, and larger ones miss the caches."""
FETCH_BYTES = 2 * 1024 * 1024
"""Limit of a whole fetch response (bytes), which is also copied while it is read. It must arrive within the request
timeout, also over a link of 2 Mbit/s."""
LINGER = 0.2
"""Seconds for which a poll waits for more records while the stage is behind: the more alerts a batch has, the less each
costs in requests, and the more of one fingerprint are folded as one."""
BEHIND = 2.0
"""Seconds from event time to now from which a stage is behind. Without a backlog marks come every second at least."""
MAX_POLL_INTERVAL_MS = 86_400_000
"""A stage may wait for Redis or the API server without limit. Health reports it; leaving the group would not help."""
LEAVE_SECONDS = 3.0
"""Longest that leaving the group may take."""


class GroupMember:
    """One member of the consumer group that reads `topic` for the stage `name`. Keys and set items are partitions.

    Every assignment and every rewind is a new generation; batches of an older one must not be acted upon.
    """

    def __init__(self, name: str, topic: str, settings: Settings, health: Health) -> None:
        self.name = name
        self.topic = topic
        self._log = log.bind(stage=name, topic=topic)
        self.group = settings.consumer_group(name)
        self.settings = settings
        self.health = health
        self.client: AIOKafkaConsumer = None
        self.generation = 0
        self.needs_positions = False
        """Partitions were assigned, or their positions became invalid. Until they are known, nothing is processed."""
        self.positions: dict[int, int] = {}
        """Next offset that the stage has not processed."""
        self.event_times: dict[int, int] = {}
        """Event time (ms) that the stage has reached."""
        self.start_offsets: dict[int, int] = {}
        """Where reading started last: records before it were processed, or counted as lost."""
        self.end_offsets: dict[int, int] = {}
        """Ends of partitions as Kafka returned them last, before records of open transactions; empty while they are
        unknown."""
        self.log_ends: dict[int, int] = {}
        """The same, after all records."""
        self.max_records = settings.max_poll_records
        """Most records in a poll."""
        self.linger = LINGER
        """Seconds for which a poll waits for more records after the first ones while the stage is behind."""
        self.polled: set[int] = set()
        """Partitions that were fetched from, as of the last poll."""
        self.quarantined: dict[int, str] = {}
        """Partitions that are not read until a person acts, with the reason."""
        self.unmanaged: set[int] = set()
        """Partitions that are not part of the state version; they are not read."""
        self.last_response_at = time.monotonic()
        """When a broker last answered, or nothing had to be asked (monotonic, s)."""
        self.awaiting_first_poll = False
        """Partitions were assigned, and nothing has been read since."""
        self._reported: str | None = None
        """The problem that this reported to health, until something is read."""
        self._attempts = Attempts()
        self._stopping = False
        self._invalidated = asyncio.Event()
        self._paused: set[int] = set()

    async def join(self, listener: ConsumerRebalanceListener) -> None:
        """Joins the group. Raises `Retry` or `ActionRequired`."""
        # Checked before subscribing: brokers may create a missing topic on their own, with the wrong settings.
        await partitions_of(self.settings, self.topic)
        session_ms = round(self.settings.session_timeout * 1000)
        client = Consumer(
            **client_options(self.settings),
            client_id=f"stormfold-{self.name}",
            group_id=self.group,
            enable_auto_commit=False,
            # The client must never choose a position: records that it passed over would be lost unnoticed.
            auto_offset_reset="none",
            isolation_level="read_committed",
            value_deserializer=raw_record,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 5,
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            fetch_max_bytes=FETCH_BYTES,
        )
        try:
            await start_client(client, self.settings)
        except StormfoldError:
            await client.stop()
            raise
        self.client = client
        client.subscribe([self.topic], listener=listener)

    async def leave(self) -> None:
        """Leaves the group, if this is in it."""
        if self.client is not None:
            # Right after a rebalance aiokafka can lose the cancellation that it waits for. Without a broker it cancels
            # a fetch that waits for its next attempt, and raises that cancellation.
            await asyncio.wait({asyncio.ensure_future(self.client.stop())}, timeout=LEAVE_SECONDS)

    @property
    def lag(self) -> dict[int, int]:
        """Records that can be read and that the stage has not processed; absent while their end is unknown.

        It also grows while the stage waits for a server and polls nothing.
        """
        return {p: max(0, self.end_offsets[p] - at) for p, at in self.positions.items() if p in self.end_offsets}

    @property
    def unstable_lag(self) -> dict[int, int]:
        """Records that cannot be read until an open transaction ends; absent while it is unknown."""
        return {p: max(0, self.log_ends[p] - end) for p, end in self.end_offsets.items() if p in self.log_ends}

    @property
    def unread(self) -> set[int]:
        """Partitions that are not read."""
        return self.unmanaged | self.quarantined.keys()

    def assigned(self) -> set[int]:
        return {tp.partition for tp in self.client.assignment()} if self.client else set()

    def topic_partitions(self, partitions: Iterable[int]) -> list[TopicPartition]:
        """These partitions as the client takes them, in order."""
        return [TopicPartition(self.topic, partition) for partition in sorted(partitions)]

    def is_current(self, batch: Batch) -> bool:
        """Whether the batch may still be acted upon."""
        return batch.generation == self.generation and not self.needs_positions and not self._stopping

    def rewind(self) -> None:
        """Goes back to the stored positions of all assigned partitions, and drops what was polled since."""
        metrics.REWINDS.labels(self.name).inc()
        self._log.info("rewinding", positions=self.positions)
        self.invalidate_assignment()

    def invalidate_assignment(self) -> None:
        """Starts a new generation, which needs positions."""
        self.generation += 1
        self.needs_positions = True
        self._wake()

    async def sleep_current(self, batch: Batch, seconds: float) -> bool:
        """Sleeps until the time is over or the batch is not current any more; returns whether it still is."""
        if self.is_current(batch):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._invalidated.wait()
        return self.is_current(batch)

    async def beginning_offset(self, partition: int) -> int:
        """First offset of a partition. Raises `Retry` or `ActionRequired`."""
        tp = TopicPartition(self.topic, partition)
        try:
            return int((await self.client.beginning_offsets([tp]))[tp])
        except KafkaError as error:
            raise await diagnose(error, self.settings) from error

    def set_paused(self, partitions: set[int]) -> None:
        """Pauses fetching of exactly these partitions, and of those that are not read."""
        if self.needs_positions:
            return
        wanted = (partitions | self.unread) & self.assigned()
        self.client.pause(*self.topic_partitions(wanted - self._paused))
        self.client.resume(*self.topic_partitions((self._paused - wanted) & self.assigned()))
        self._paused = wanted

    def pause_unread(self) -> None:
        """Pauses partitions that became unread, and leaves the others as they are."""
        self.set_paused(self._paused)

    async def commit(self, offsets: Mapping[int, tuple[int, str]]) -> bool:
        """Commits next offsets with metadata; returns whether the group took them.

        Returns False while positions are needed: the stage's offsets are of an older generation, and another member may
        have got further.
        """
        if self.needs_positions:
            return False
        if not offsets:
            return True
        started = time.monotonic()
        try:
            await self.client.commit(
                {TopicPartition(self.topic, p): OffsetAndMetadata(o, m) for p, (o, m) in offsets.items()}
            )
        except KafkaError as error:
            rebalanced = isinstance(error, CommitFailedError | IllegalGenerationError | RebalanceInProgressError)
            report = self._log.info if rebalanced else self._log.warning
            next_offsets, seconds = {p: offset for p, (offset, _) in offsets.items()}, seconds_since(started)
            report("commit failed", offsets=next_offsets, error=str(error), duration_seconds=seconds)
            return False
        return True

    def is_behind(self) -> bool:
        """Whether the newest event time that the stage has reached is old; False if it has none."""
        newest = max(self.event_times.values(), default=None)
        return newest is not None and time.time() - newest / 1000 > BEHIND

    def start_reading(self, positions: dict[int, int], end_offsets: dict[int, int]) -> None:
        """Starts processing at these positions, to which the client was moved before."""
        self.positions, self.end_offsets, self.log_ends = positions, end_offsets, {}
        self.start_offsets = {p: offset for p, offset in positions.items() if p not in self.quarantined}
        self.needs_positions = False
        self._paused = self.assigned()
        self.set_paused(set())

    def report_problem(self, error: StormfoldError) -> None:
        """Reports why nothing can be read, until `mark_recovered`."""
        self._reported = str(error)
        attempt = self._attempts.fail()
        if self.health.set_unhealthy(self.name, str(error), error.hint):
            self._log.warning("cannot read", partitions=sorted(self.assigned()), error=str(error), **attempt)

    def mark_recovered(self) -> None:
        """Something was read, or there is nothing to read: clears the problem that prevented it.

        A problem that the stage itself reported stays, but not beyond an assignment.
        """
        if self.awaiting_first_poll:
            self.health.set_healthy(self.name)
        elif self._reported is not None:
            self.health.clear(self.name, self._reported)
        if recovery := self._attempts.succeed():
            self._log.info("reading again", **recovery)
        self.awaiting_first_poll, self._reported = False, None

    def stop(self) -> None:
        """Makes every batch outdated."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        self._invalidated.set()
        self._invalidated = asyncio.Event()
