"""The batch consumer: polls one topic for a stage and passes it all records of a poll at once.

One poll at a time, in order. The stage finds the positions where partitions start, and may rewind to them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError, NoOffsetForPartitionError, OffsetOutOfRangeError
from mode import Service

from stormfold.errors import StormfoldError, unexpected
from stormfold.kafka._patches import Record
from stormfold.kafka.batch import Batch
from stormfold.kafka.client import diagnose
from stormfold.kafka.ends import EndTracker
from stormfold.kafka.group_member import FETCH_WAIT_MS, GroupMember
from stormfold.kafka.rebalance import RebalanceListener
from stormfold.kafka.start_positions import PositionAssigner
from stormfold.kafka.topics import partitions_of
from stormfold.positions import Position

log = structlog.get_logger(__name__)

POLL_BYTES = 16 * 1024 * 1024
"""Approximate limit of the values in one poll: records may be large, and compressed a hundredfold. Thousands of usual
records are far below it."""
FIRST_POLL_RECORDS = 100
"""Records of the first poll after an assignment, when their size is unknown. The number doubles with each poll."""
END_INTERVAL = FETCH_WAIT_MS / 1000
"""Seconds between two requests for the ends of partitions; the answer shows which ones are read to their end."""
BACKOFF = 1.0
"""Seconds between two attempts to assign positions or to reach the brokers."""
DRAIN_SECONDS = 5.0
"""Longest wait for the batch in progress before the stage commits what it has processed."""


class Stage(Protocol):
    """A stage that reads a topic."""

    async def start_positions(
        self, consumer: AIOKafkaConsumer, partitions: set[int], /
    ) -> Mapping[int, Position | None]:
        """Returns where the assigned partitions start; see `FindStartPositions`."""

    async def process(self, batch: Batch) -> bool | None:
        """Processes one poll; returns only when that is done, or the batch is not current any more.

        Returns True if the stage processes the records later, and moves the member's positions itself.
        """

    async def commit(self) -> object:
        """Commits what was processed."""

    async def stop(self) -> None:
        """Closes the stage's own connections."""


class BatchConsumer(Service):
    """Polls the topic of `member`, and passes each poll to `put`, which brings it to `process`."""

    def __init__(
        self, member: GroupMember, stage: Stage, put: Callable[[Batch], Awaitable[Any]], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.member = member
        self._log = log.bind(stage=member.name, topic=member.topic)
        self.busy = asyncio.Lock()
        """Held while the stage processes a batch; a rebalance waits for it for some time."""
        self._stage = stage
        self._put = put
        self._positions = PositionAssigner(member)
        self._ends = EndTracker(member)
        self._listener = RebalanceListener(member, self.drain)
        self._in_progress: Batch | None = None
        """The last batch, until the stage has processed it."""
        self._taken = asyncio.Event()
        """Set when the stage has begun with the last batch."""
        self._polled: dict[int, int] = {}
        """Offset after the last record of the generation that was passed to the stage, by partition."""
        self._max_records = FIRST_POLL_RECORDS
        """Records in the next poll."""

    async def process(self, batch: Batch) -> None:
        """Passes a batch to the stage. Raises nothing."""
        member = self.member
        self._taken.set()
        async with self.busy:
            try:
                later = await self._stage.process(batch)
            except Exception as error:
                # A defect of stormfold. Rewinding loses nothing.
                self._log.exception("stage failed", positions=member.positions)
                member.health.set_unhealthy(member.name, str(unexpected(error)))
                await member.sleep_current(batch, BACKOFF)
                member.rewind()
                return
            if batch is self._in_progress:
                self._in_progress = None
            if member.is_current(batch) and not later:
                member.positions |= {partition: records[-1].offset + 1 for partition, records in batch.records.items()}
                member.positions |= {partition: end.offset for partition, end in batch.ends.items()}

    async def drain(self, seconds: float) -> None:
        """Waits until the batch in progress is processed, at most this long, and calls the stage to commit."""
        try:
            async with asyncio.timeout(seconds):
                await self.busy.acquire()
        except TimeoutError:
            self._log.warning("a batch is still in progress", waited=seconds)
            return
        try:
            await self._stage.commit()
        finally:
            self.busy.release()

    async def on_stop(self) -> None:
        """Finishes the batch in progress, then leaves the group."""
        self.member.stop()
        try:
            await self.drain(DRAIN_SECONDS)
        finally:
            await self.member.leave()

    @Service.task
    async def _poll(self) -> None:
        member = self.member
        while not self.should_stop:
            try:
                if member.client is None:
                    await member.join(self._listener)
                if member.needs_positions and member.assigned():
                    # Not while a batch is in progress: its effects would be taken for those of the new generation.
                    async with self.busy:
                        await self._positions.assign_positions(self._stage.start_positions)
                    self._polled = {}
                    self._max_records = min(FIRST_POLL_RECORDS, member.max_records)
                await self._poll_once()
            except StormfoldError as error:
                member.report_problem(error)
                await self.sleep(BACKOFF)
            except KafkaError as error:
                member.report_problem(await diagnose(error, member.settings))
                await self.sleep(BACKOFF)
                if not error.retriable and not isinstance(error, KafkaTimeoutError):
                    # aiokafka repeats this error of its group without end, also after the reason for it is gone.
                    await self._listener.on_partitions_revoked(member.topic_partitions(member.assigned()))
                    await member.leave()
                    member.client = None
            except Exception as error:
                if not self.should_stop:
                    self._log.exception("poll failed", positions=member.positions)
                    member.report_problem(unexpected(error))
                    member.rewind()
                await self.sleep(BACKOFF)

    @Service.task
    async def _track_ends(self) -> None:
        while not self.should_stop:
            await self.sleep(END_INTERVAL)
            await self._ends.update()

    async def _poll_once(self) -> None:
        member = self.member
        try:
            polled = await self._fetch()
        except NoOffsetForPartitionError:
            # An assignment without a commit, whose positions are not assigned yet.
            polled = {}
        except OffsetOutOfRangeError as error:
            await self._handle_out_of_range(error)
            return
        member.health.heartbeat(member.name)
        generation = member.generation
        if not member.assigned():
            await self._check_unassigned()
        if member.needs_positions or not member.assigned():
            return
        records = {tp.partition: found for tp, found in polled.items() if found}
        self._positions.verify_positions(records)
        ends = await self._ends.read_to_end()
        if generation != member.generation:
            return
        if not member.quarantined and (member.polled or not member.assigned() - member.unmanaged):
            member.mark_recovered()
        readable = {p: found for p, found in records.items() if found and p not in member.quarantined}
        self._in_progress = batch = Batch(generation, readable, ends)
        self._polled |= {partition: found[-1].offset + 1 for partition, found in readable.items()}
        self._taken.clear()
        await self._put(batch)
        # The next poll is read while the stage processes this one. A third would only take memory, and be smaller.
        await self._taken.wait()

    async def _fetch(self) -> dict[TopicPartition, list[Record]]:
        """Waits for records, and then for more of them while the stage is behind and the batch is not full."""
        member, generation = self.member, self.member.generation
        found: dict[TopicPartition, list[Record]]
        found = await member.client.getmany(timeout_ms=FETCH_WAIT_MS, max_records=self._max_records)
        count, size = _measure(found.values())
        deadline = time.monotonic() + (member.linger if member.is_behind() else 0.0)
        while 0 < count < self._max_records and size < POLL_BYTES and member.generation == generation:
            wait = deadline - time.monotonic()
            if wait <= 0:
                break
            try:
                more = await member.client.getmany(timeout_ms=round(wait * 1000), max_records=self._max_records - count)
            except OffsetOutOfRangeError:
                # It comes again with the next poll; the log may not have the records before it any more.
                break
            except KafkaError:
                # aiokafka has dropped what it had taken of other partitions, and continues after that.
                member.rewind()
                raise
            for tp, records in more.items():
                found[tp] = found.get(tp, []) + records
            more_count, more_size = _measure(more.values())
            count, size = count + more_count, size + more_size
        if count:
            # The next poll has as many records as fit if they are like these.
            fit = POLL_BYTES * count // max(size, 1)
            self._max_records = max(1, min(2 * self._max_records, fit, member.max_records))
        return found

    async def _handle_out_of_range(self, error: OffsetOutOfRangeError) -> None:
        """Assigns positions again: the log does not have one of them, because of retention or because it is new."""
        member = self.member
        if member.needs_positions:
            return
        generation = member.generation
        self._log.warning("position is out of the log's range", error=str(error))
        # First the polled records, which the log may not have any more. Committed, they do not count as lost.
        while not self.should_stop and member.generation == generation and self._has_unprocessed(error):
            await self.sleep(FETCH_WAIT_MS / 1000)
        await self.drain(DRAIN_SECONDS)
        member.invalidate_assignment()

    def _has_unprocessed(self, error: OffsetOutOfRangeError) -> bool:
        """Whether the stage has not processed everything that was polled of the partitions in the error."""
        (partitions,) = error.args
        positions, polled = self.member.positions, self._polled
        return self._in_progress is not None or any(
            positions.get(tp.partition, 0) < polled.get(tp.partition, 0) for tp in partitions
        )

    async def _check_unassigned(self) -> None:
        """No partition is assigned: raises `ActionRequired` if there is no topic, else there are fewer than members."""
        if self.member.client.partitions_for_topic(self.member.topic) is None:
            await partitions_of(self.member.settings, self.member.topic)
        elif self.member.awaiting_first_poll:
            self.member.mark_recovered()


def _measure(parts: Iterable[Sequence[Record]]) -> tuple[int, int]:
    """Number of records, and bytes of their values."""
    sizes = [len(record.value or b"") for records in parts for record in records]
    return len(sizes), sum(sizes)
