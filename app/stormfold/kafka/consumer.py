"""Batch ingest: a Faust service that polls one topic for its consumer group and hands lists of records to an agent.

One event per poll, in order, one at a time. A stage says where each partition begins (`Placer`), and may have the
whole assignment placed again (`rewind`). Every assignment and every rewind is a new generation; batches of an older
one are worthless and must not be acted upon.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    KafkaError,
    KafkaTimeoutError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RebalanceInProgressError,
)
from aiokafka.structs import OffsetAndMetadata
from mode import Service

from stormfold import metrics
from stormfold.errors import ActionRequired, Retry, StormfoldError
from stormfold.health import Health
from stormfold.kafka._patches import Record, raw_record
from stormfold.kafka.client import broker_error, client_options, explain
from stormfold.kafka.topics import partitions_of
from stormfold.settings import Settings

log = structlog.get_logger(__name__)

POLL_MS = 250
"""Longest wait for records: also how often an idle partition's end is seen, so the finest step of event time."""
FETCH_BYTES = 1024 * 1024
"""Of each partition in one answer, some 2,000 alerts; a larger record comes by itself. Answers are held until they are
polled: they are most of a worker's memory at a backlog, and what is in no cache costs more to read."""
ANSWER_BYTES = 4 * 1024 * 1024
"""Of all partitions in one answer: it has to be whole before the broker is given up, also over a link of 4 Mbit/s."""
POLL_BYTES = 16 * 1024 * 1024
"""Of values in a poll, about: records may be large, and packed a hundredfold. Far more than thousands of usual ones."""
FIRST_POLL = 100
"""Records of the first poll after an assignment: what they are like is not known yet. Then twice as many each time."""
MAX_POLL_INTERVAL_MS = 86_400_000
"""A stage may wait for Redis or the API server as long as it takes: health tells of it, leaving helps nobody."""
STOP_SECONDS = 3.0
"""Longest that leaving the group may take."""
MEASURE_SECONDS = POLL_MS / 1000
"""Seconds between two questions for the ends of partitions: that one is read to its end is known with the answer."""
END_SECONDS = 3.0
"""Longest wait for it. Then those whose leaders do answer are asked for apart."""
BACKOFF = 1.0
"""Seconds between two tries to place an assignment or to reach the broker."""
SETTLE_SECONDS = 5.0
"""Longest wait for the batch in hand before the stage commits what it did."""


class Start(NamedTuple):
    """Where a partition begins: next offset (None: the beginning), and the timestamp of the record before it (ms)."""

    offset: int | None
    timestamp: int = -1


Placer = Callable[[AIOKafkaConsumer, set[int]], Awaitable[Mapping[int, Start]]]
"""Returns where the assigned partitions begin. Raises `Retry` or `ActionRequired`; either way it is called again."""


class End(NamedTuple):
    """A partition has been read to its end."""

    polled: int
    """Wall-clock time (ms) as of which that was so: what showed it was not asked for before. An answer may have been
    under way for long, or have waited for a frozen worker."""
    offset: int
    """The end: behind the last record if a transaction's marker follows it."""


@dataclass(slots=True)
class Batch:
    """What one poll brought."""

    generation: int
    records: Mapping[int, Sequence[Record]]
    """By partition; offsets ascend."""
    ends: dict[int, End]
    """Partitions of which these are the last records."""


class BatchConsumer(Service):
    """Polls `topic` as a member of `group`."""

    def __init__(
        self, *, name: str, topic: str, place: Placer, put: Callable[[Batch], Awaitable[Any]],
        leave: Callable[[], Awaitable[None]], settings: Settings, health: Health, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.name = name
        self.topic = topic
        self.group = settings.consumer_group(name)
        self.generation = 0
        self.busy = asyncio.Lock()
        """Held by the stage while it acts on a batch; a rebalance waits for it a little."""
        self.refused: dict[int, str] = {}
        """Partitions that are not read, and why: a person must act."""
        self.foreign: set[int] = set()
        """Partitions that the epoch does not know: nothing of ours is in them."""
        self.read: set[int] = set()
        """Partitions that were polled, as of the last poll."""
        self.done: dict[int, int] = {}
        """Where the stage goes on, by assigned partition: next offset of what it has not acted upon."""
        self.reached: dict[int, int] = {}
        """Event time (ms) that the stage has come to, by assigned partition; the stage tells."""
        self.heard = time.monotonic()
        """When the broker last answered a question (monotonic, s), or there was nothing to ask."""
        self._placed: dict[int, int] = {}
        """Where assigned partitions were placed last: what is before was acted upon, or counted as lost."""
        self._handed: Batch | None = None
        """The last batch that the stage was given, until it has acted upon it."""
        self._ends: dict[int, int] = {}
        self._most = FIRST_POLL
        """Records in the next poll."""
        self._place = place
        self._put = put
        self._leave = leave
        self._settings = settings
        self._health = health
        self._unplaced = False
        self.joined = False
        """Partitions were assigned, and nothing has been read since."""
        self._told: str | None = None
        """The problem that this told health of, until something is read."""
        self._turned = asyncio.Event()
        self._expected: dict[int, tuple[int, int]] = {}
        self._answers: dict[int, tuple[int | None, int]] = {}
        """When the last two fetches of a partition were answered (ms)."""
        self._told_ends: dict[int, End] = {}
        """What the leader of a partition last said when it was asked for the end, and when that was."""
        self._paused: set[int] = set()
        self.consumer: AIOKafkaConsumer = None

    @property
    def lag(self) -> dict[int, int]:
        """Records that the stage has not acted upon, by assigned partition; absent while Kafka does not tell the end.

        It grows also while the stage waits for a server and polls nothing.
        """
        return {p: max(0, self._ends[p] - at) for p, at in self.done.items() if p in self._ends}

    def finish(self, batch: Batch) -> None:
        """The stage has acted upon the batch; nothing if that is no longer current."""
        if batch is self._handed:
            self._handed = None
        if self.current(batch):
            self.done |= {partition: records[-1].offset + 1 for partition, records in batch.records.items()}
            self.done |= {partition: end.offset for partition, end in batch.ends.items()}

    def current(self, batch: Batch) -> bool:
        """Whether the batch may still be acted upon."""
        return batch.generation == self.generation and not self._unplaced and not self.should_stop

    def rewind(self) -> None:
        """Has every assigned partition placed again; what was polled so far is dropped."""
        metrics.REWINDS.labels(self.name).inc()
        self.turn()

    def turn(self) -> None:
        """The same for another reason than that the stage went wrong."""
        self.generation += 1
        self._unplaced = True
        self._turned.set()
        self._turned = asyncio.Event()

    async def sleep_current(self, batch: Batch, seconds: float) -> bool:
        """Waits, but not longer than the batch is current; returns whether it still is."""
        if self.current(batch):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._turned.wait()
        return self.current(batch)

    def assigned(self) -> set[int]:
        """Partitions of this member."""
        return {tp.partition for tp in self.consumer.assignment()} if self.consumer else set()

    async def begin(self, partition: int) -> int:
        """First offset of a partition. Raises `Retry` or `ActionRequired`."""
        tp = TopicPartition(self.topic, partition)
        try:
            return int((await self.consumer.beginning_offsets([tp]))[tp])
        except KafkaError as error:
            raise broker_error(error, self._settings) from error

    def hold(self, partitions: set[int]) -> None:
        """Stops fetching exactly these partitions until told otherwise (refused ones stay held)."""
        if self._unplaced:
            return
        wanted = (partitions | self._unread) & self.assigned()
        self.consumer.pause(*self._tps(wanted - self._paused))
        self.consumer.resume(*self._tps((self._paused - wanted) & self.assigned()))
        self._paused = wanted

    async def commit(self, offsets: Mapping[int, tuple[int, str]]) -> bool:
        """Commits next offsets with metadata; False if the group has moved on or the broker is away.

        Refused from an assignment or a rewind on until all is placed again: what a stage knows is of before, and
        somebody else may have got further since.
        """
        if self._unplaced:
            return False
        if not offsets:
            return True
        try:
            await self.consumer.commit(
                {TopicPartition(self.topic, p): OffsetAndMetadata(o, m) for p, (o, m) in offsets.items()}
            )
        except (CommitFailedError, IllegalGenerationError, RebalanceInProgressError):
            return False
        except KafkaError as error:
            log.warning("commit failed", stage=self.name, error=str(error))
            return False
        return True

    async def on_stop(self) -> None:
        """Lets the batch in hand be finished, then leaves the group."""
        self._turned.set()
        try:
            await self.settle(SETTLE_SECONDS)
        finally:
            await self._leave_group()

    @Service.task
    async def _poll(self) -> None:
        await self._join()
        while not self.should_stop:
            try:
                if self._unplaced and self.consumer.assignment():
                    # Not while a batch is in hand: what it still does would be taken for a part of what comes.
                    async with self.busy:
                        await self._place_all()
                await self._poll_once()
            except StormfoldError as error:
                self._problem(error)
                await self.sleep(BACKOFF)
            except KafkaError as error:
                self._problem(broker_error(error, self._settings))
                await self.sleep(BACKOFF)
                if not error.retriable and not isinstance(error, KafkaTimeoutError):
                    # The client would say the same of its group for ever, whatever is put right.
                    await _Listener(self).on_partitions_revoked(self._tps(self.assigned()))
                    await self._leave_group()
                    self.consumer = None
                    await self._join()
            except Exception as error:
                # A defect of ours; to be gone would be worse than to try again.
                if not self.should_stop:
                    log.exception("poll failed", stage=self.name)
                    self._problem(Retry(f"unexpected {type(error).__name__}: {error}"))
                    self.rewind()
                await self.sleep(BACKOFF)

    async def _join(self) -> None:
        while not self.should_stop:
            try:
                # Asked before anybody joins: a broker that creates topics by itself would create it wrongly.
                await partitions_of(self._settings, self.topic)
                self.consumer = await self._consumer_started()
            except StormfoldError as error:
                self._problem(error)
                await self.sleep(BACKOFF)
            else:
                self.consumer.subscribe([self.topic], listener=_Listener(self))
                return

    async def _consumer_started(self) -> AIOKafkaConsumer:
        """A consumer that knows the brokers. Raises `Retry` or `ActionRequired`."""
        consumer = AIOKafkaConsumer(
            **client_options(self._settings),
            client_id=f"stormfold-{self.name}",
            group_id=self.group,
            enable_auto_commit=False,
            # Where to go on is never the client's to choose: what it left out would be lost and told to nobody.
            auto_offset_reset="none",
            isolation_level="read_committed",
            value_deserializer=raw_record,
            session_timeout_ms=round(self._settings.session_timeout * 1000),
            heartbeat_interval_ms=round(self._settings.session_timeout * 1000 / 5),
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            fetch_max_wait_ms=POLL_MS,
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_bytes=ANSWER_BYTES,
        )
        try:
            await consumer.start()
        except (KafkaError, OSError) as error:
            await consumer.stop()
            raise await explain(error, self._settings) from error
        return consumer

    async def _leave_group(self) -> None:
        if self.consumer is not None:
            # Right after a rebalance aiokafka can lose the cancellation that it waits for; without Kafka it cancels a
            # fetch of its own that waits to be tried again, and lets that through.
            await asyncio.wait({asyncio.ensure_future(self.consumer.stop())}, timeout=STOP_SECONDS)

    async def _poll_once(self) -> None:
        try:
            polled = await self.consumer.getmany(timeout_ms=POLL_MS, max_records=self._most)
        except NoOffsetForPartitionError:
            # Of an assignment that has no commit and is not placed yet.
            polled = {}
        except OffsetOutOfRangeError as error:
            await self._leave_range(error)
            return
        self._health.heartbeat(self.name)
        generation = self.generation
        if not self.consumer.assignment():
            await self._idle()
        if self._unplaced or not self.consumer.assignment():
            return
        records = {tp.partition: found for tp, found in polled.items() if found}
        self._measure_poll(records)
        for partition in self._expected.keys() & records.keys():
            self._compare(partition, records)
        ends = await self._read_ends()
        if generation == self.generation:
            if not self.refused and (self.read or not self.assigned() - self.foreign):
                self._cured()
            kept = {p: found for p, found in records.items() if found and p not in self.refused}
            self._handed = batch = Batch(generation, kept, ends)
            await self._put(batch)

    async def _leave_range(self, error: OffsetOutOfRangeError) -> None:
        """The log no longer has a position, because retention passed it or it is another log: all is placed again."""
        if self._unplaced:
            return
        log.warning("position is out of the log's range", stage=self.name, topic=self.topic, error=str(error))
        # First what was polled, for the log may have no more of it; and the commit, or it would be counted as lost.
        while self._handed is not None and self.current(self._handed):
            await self.sleep(POLL_MS / 1000)
        await self.settle(SETTLE_SECONDS)
        self.turn()

    def _measure_poll(self, records: Mapping[int, Sequence[Record]]) -> None:
        """The next poll has as many records as fit, if they are like these."""
        count = sum(map(len, records.values()))
        if count:
            size = sum(len(record.value or b"") for found in records.values() for record in found)
            fit = POLL_BYTES * count // max(size, 1)
            self._most = max(1, min(2 * self._most, fit, self._settings.max_poll_records))

    async def _idle(self) -> None:
        if self.consumer.partitions_for_topic(self.topic) is None:
            await partitions_of(self._settings, self.topic)
        elif self.joined:
            # More members than partitions: this one stands by.
            self._cured()

    def _cured(self) -> None:
        """Something was read, or there is nothing to read: what kept this from reading is over. What the stage told of
        itself is its own to take back, but not beyond an assignment."""
        if self.joined:
            self._health.set_healthy(self.name)
        elif self._told is not None:
            self._health.clear(self.name, self._told)
        self.joined, self._told = False, None

    async def _read_ends(self) -> dict[int, End]:
        ends, read = {}, set()
        for tp in self.consumer.assignment():
            position = await self.consumer.position(tp)
            end, polled = self.consumer.highwater(tp), self.consumer.last_poll_timestamp(tp)
            if end is None or polled is None:
                continue
            read.add(tp.partition)
            self._ends[tp.partition] = max(end, self._ends.get(tp.partition, 0))
            asked, told = self._asked(tp.partition, polled), self._told_ends.get(tp.partition)
            if asked is None or told is None or tp.partition in self._unread:
                continue
            # Both: a leader that is new answers a fetch before it knows how much of what it has was acknowledged by the
            # one before it, but not this question (KIP-207); and that answer ends where a transaction is open.
            if position >= max(end, told.offset):
                ends[tp.partition] = End(min(asked, told.polled), position)
        self.read = read
        return ends

    @Service.task
    async def _measure(self) -> None:
        """Asks for the ends of partitions apart from polling: that waits when the stage does."""
        while not self.should_stop:
            await self.sleep(MEASURE_SECONDS)
            try:
                await self._measure_once()
                self.heard = time.monotonic()
            except Exception as error:
                # Polling tells of what it can be. Unknown is truer than what the lag was.
                self._ends = {}
                log.debug("lag is unknown", stage=self.name, error=str(error))
                # A broker that is away is no reason to stand still with what others lead.
                each = (self._ask_ends([tp]) for tp in self._tps(self.assigned() - self.foreign))
                await asyncio.gather(*each, return_exceptions=True)

    async def _ask_ends(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        asked = time.time_ns() // 1_000_000
        async with asyncio.timeout(END_SECONDS):
            ends: dict[TopicPartition, int] = await self.consumer.end_offsets(tps)
        self._told_ends |= {tp.partition: End(asked, end) for tp, end in ends.items()}
        return ends

    async def _measure_once(self) -> None:
        generation = self.generation
        tps = self._tps(self.assigned() - self.foreign)
        if not tps:
            return
        ends = await self._ask_ends(tps)
        done = {}
        # As long as it can't be said where the stage begins, it stands at its last commit.
        for tp in [tp for tp in tps if tp.partition not in self.done]:
            committed = await self.consumer.committed(tp)
            done[tp.partition] = await self.begin(tp.partition) if committed is None else committed
        if generation == self.generation:
            self._ends = {tp.partition: end for tp, end in ends.items()}
            # Those placed meanwhile know better.
            self.done = done | self.done

    def _asked(self, partition: int, answered: int) -> int | None:
        """When the answer before came: aiokafka asks again only after that. None while there has been only one."""
        before, last = self._answers.get(partition, (None, None))
        if answered != last:
            before, _ = self._answers[partition] = last, answered
        return before

    async def _place_all(self) -> None:
        generation = self.generation
        partitions = self.assigned()
        tps = self._tps(partitions)
        starts = await self._place(self.consumer, partitions)
        begins = await self.consumer.beginning_offsets(tps)
        ends = await self.consumer.end_offsets(tps)
        lost = {
            tp.partition: await self._count_lost(tp, starts[tp.partition], begins[tp])
            for tp in tps
            if tp.partition in starts
        }
        if generation != self.generation or partitions != self.assigned():
            return
        self.refused, self.foreign, self._expected, done = {}, set(), {}, {}
        for tp in tps:
            # Also one that is not read: the client asks where a partition begins until it has been told.
            self.consumer.seek(tp, begins[tp])
            start = starts.get(tp.partition)
            if start is None:
                self.foreign.add(tp.partition)
                log.warning("partition is not read: the epoch has fewer", topic=self.topic, partition=tp.partition)
                continue
            offset = begins[tp] if start.offset is None else max(start.offset, begins[tp])
            done[tp.partition] = offset
            if offset > ends[tp]:
                self._refuse(tp.partition, f"it ends at {ends[tp]}, before the position {offset}")
                continue
            if lost[tp.partition]:
                metrics.LOST_RECORDS.labels(self.name, tp.partition).inc(lost[tp.partition])
                log.error("retention took records before they were read", stage=self.name, topic=self.topic,
                          partition=tp.partition, lost=lost[tp.partition], begin=begins[tp])  # fmt: skip
            if start.timestamp >= 0 and offset > begins[tp]:
                # One record early: if another one stands there now, the topic is not the one that was read.
                self._expected[tp.partition] = (offset - 1, start.timestamp)
                offset -= 1
            self.consumer.seek(tp, offset)
        self.done, self._ends = done, {tp.partition: end for tp, end in ends.items()}
        self._placed = {p: offset for p, offset in done.items() if p not in self.refused}
        self._unplaced = False
        self._most = min(FIRST_POLL, self._settings.max_poll_records)
        self._paused = set(partitions)
        self.hold(set())

    async def _count_lost(self, tp: TopicPartition, start: Start, begin: int) -> int:
        """Records before the log's beginning that were neither acted upon nor counted as lost yet."""
        if start.offset is not None and (start.offset, start.timestamp) >= (begin, 0):
            return 0
        # A start at the beginning may have been chosen because the position is gone: the commit still tells of that.
        stood = [await self.consumer.committed(tp), self._placed.get(tp.partition)]
        if start.offset is not None and start.offset < begin:
            stood.append(start.offset)
        return begin - min(begin, max((offset for offset in stood if offset is not None), default=begin))

    def _compare(self, partition: int, records: dict[int, list[Record]]) -> None:
        offset, timestamp = self._expected.pop(partition)
        first = records[partition][0]
        if first.offset > offset:
            return
        if first.timestamp != timestamp:
            self._refuse(partition, f"the record at {offset} is not the one that was read")
            self.hold(self._paused)
        del records[partition][0]

    def _refuse(self, partition: int, why: str) -> None:
        place = f"{self.topic}-{partition}"
        self.refused[partition] = why
        self._problem(
            ActionRequired(
                f"{place} seems to have been created anew: {why}",
                "if that was meant, run `stormfold topics --reset-positions`; until then the partition is not read",
            )
        )

    def _problem(self, error: StormfoldError) -> None:
        self._told = str(error)
        if self._health.set_unhealthy(self.name, str(error), error.hint):
            log.warning("cannot read", stage=self.name, topic=self.topic, error=str(error))

    @property
    def _unread(self) -> set[int]:
        return self.foreign | self.refused.keys()

    async def settle(self, seconds: float) -> None:
        """Waits for the batch in hand, at most so long, and has the stage commit what it did."""
        try:
            async with asyncio.timeout(seconds):
                await self.busy.acquire()
        except TimeoutError:
            log.warning("a batch is still under way", stage=self.name)
            return
        try:
            await self._leave()
        finally:
            self.busy.release()

    def _tps(self, partitions: set[int]) -> list[TopicPartition]:
        return [TopicPartition(self.topic, partition) for partition in sorted(partitions)]


class _Listener(ConsumerRebalanceListener):
    def __init__(self, ingest: BatchConsumer) -> None:
        self._ingest = ingest

    async def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
        # First the batch in hand, then nothing of this assignment any more.
        if revoked:
            await self._ingest.settle(self._ingest._settings.session_timeout / 3)
        self._ingest.turn()
        self._ingest.done, self._ingest.reached, self._ingest._placed = {}, {}, {}

    async def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        metrics.ASSIGNMENTS.labels(self._ingest.name).inc()
        self._ingest.turn()
        self._ingest.joined = True
        self._ingest.consumer.pause(*assigned)
