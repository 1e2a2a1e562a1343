"""Kafka as the stages see it, in memory: logs with holes, commits with metadata, polls, deliveries that fail half way.

It stands in for the client at the seams that the stages use (`GroupMember`, `Producer`, `read_committed`, the
consumer's questions about offsets), so the real stages run, and the test chooses every step.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndTimestamp

from stormfold.errors import Retry
from stormfold.kafka.batch import Batch, PartitionEnd
from stormfold.kafka.committed import CommitMetadata, Committed
from stormfold.kafka.producer import Pair, ProducerRecord
from stormfold.kafka.rebalance import RebalanceListener
from stormfold.positions import Position
from stormfold.settings import Settings

Leaving = Literal["in time", "too late", "with a batch in hand"]
"""How a member gives partitions away: it may commit, it may not any more, or it is still busy when the time is over."""


class Crash(BaseException):
    """The process ends here: nothing catches it."""


@dataclass
class Clock:
    """The clock of the stages, which only the test moves."""

    now: int
    """Milliseconds since the epoch."""

    def time(self) -> float:
        return self.now / 1000

    monotonic = perf_counter = time

    def time_ns(self) -> int:
        return self.now * 1_000_000


@dataclass(frozen=True)
class Record:
    """As aiokafka hands it out."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass
class Log:
    """One partition."""

    records: list[Record] = field(default_factory=list)
    end: int = 0


@dataclass
class Fault:
    """What goes wrong with the delivery after `skip` good ones."""

    skip: int
    random: Random
    error: BaseException
    acknowledged: bool = False
    """All of it is written, and then it goes wrong."""


@dataclass
class Broker:
    """Topics by name."""

    clock: Clock
    partitions: dict[str, int]
    random: Random
    logs: dict[tuple[str, int], Log] = field(default_factory=lambda: defaultdict(Log))
    commits: dict[str, dict[int, tuple[int, str]]] = field(default_factory=lambda: defaultdict(dict))
    fault: Fault | None = None
    interleaved: Callable[[], Awaitable[None]] | None = None
    """Runs other members during the next delivery."""
    delivered: Callable[[str, Mapping[int, Iterable[Pair]]], None] | None = None
    """Looks at every delivery that was acknowledged."""

    def append(
        self, topic: str, partition: int, outgoing: Pair, timestamp: int | None = None, headers: Any = ()
    ) -> None:
        """Writes a record; now and then a transaction's marker or an aborted record takes an offset before it."""
        log = self.logs[topic, partition]
        log.end += self.random.random() < 0.1
        time = self.clock.now if timestamp is None else timestamp
        log.records.append(Record(topic, partition, log.end, time, *outgoing, headers))
        log.end += 1

    def read(self, topic: str, partition: int, offset: int, most: int | None = None) -> list[Record]:
        """Records from an offset on."""
        records = self.logs[topic, partition].records
        at = bisect_left(records, offset, key=lambda record: record.offset)
        return records[at:] if most is None else records[at : at + most]

    def all(self, topic: str) -> list[Record]:
        """Every record of a topic, partition by partition."""
        return [record for p in range(self.partitions[topic]) for record in self.logs[topic, p].records]

    async def read_committed(self, _settings: Settings, group: str, _topic: str) -> Committed:
        """Takes the place of `stormfold.kafka.committed.read_committed`."""
        return {p: (offset, CommitMetadata.decode(text)) for p, (offset, text) in self.commits[group].items()}

    async def partitions_of(self, _settings: Settings, topic: str) -> range:
        """Takes the place of `stormfold.kafka.topics.partitions_of`."""
        return range(self.partitions[topic])

    async def beginning_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 0)

    async def end_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.logs[tp.topic, tp.partition].end for tp in tps}

    async def offsets_for_times(self, times: dict[TopicPartition, int]) -> dict[TopicPartition, Any]:
        found = {}
        for tp, time in times.items():
            later = [r for r in self.logs[tp.topic, tp.partition].records if r.timestamp >= time]
            found[tp] = OffsetAndTimestamp(later[0].offset, later[0].timestamp) if later else None
        return found


class Producer:
    """Takes the place of `stormfold.kafka.producer.Producer`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def send(self, topic: str, records: Mapping[int, Iterable[Pair]]) -> None:
        broker = self._broker
        if broker.interleaved:
            others, broker.interleaved = broker.interleaved, None
            await others()
        fault = broker.fault
        if fault:
            fault.skip -= 1
            if fault.skip >= 0:
                fault = None
        whole = {partition: list(outgoing) for partition, outgoing in records.items()}
        for partition, listed in whole.items():
            kept = len(listed) if not fault or fault.acknowledged else fault.random.randint(0, len(listed))
            for one in listed[:kept]:
                broker.append(topic, partition, one)
        if fault:
            broker.fault = None
            raise fault.error
        if broker.delivered:
            broker.delivered(topic, whole)

    async def send_by_key(self, topic: str, records: Iterable[ProducerRecord]) -> None:
        await self.send(topic, {0: records})

    async def send_record(self, topic: str, outgoing: ProducerRecord, headers: Sequence[tuple[str, bytes]]) -> None:
        self._broker.append(topic, 0, outgoing, headers=tuple(headers))

    async def partitions(self, topic: str) -> int:
        return self._broker.partitions[topic]


class GroupMember:
    """Takes the place of `stormfold.kafka.group_member.GroupMember` and of its batch consumer: polled by the test.

    `make_stage` makes the stage of the member.
    """

    def __init__(self, broker: Broker, name: str, topic: str, make_stage: Callable[[Any], Any]) -> None:
        self.name = name
        self.topic = topic
        self.settings = Settings()
        self.group = self.settings.consumer_group(name)
        self.generation = 0
        self.positions: dict[int, int] = {}
        self.event_times: dict[int, int] = {}
        self.fenced = False
        """The group has gone on without it: it doesn't know, and may commit nothing."""
        self.partitions: set[int] = set()
        self.unreadable: set[int] = set()
        """Partitions that have no leader, or are refused."""
        self._broker = broker
        self._needs_positions = True
        self._leaving: Leaving = "in time"
        self._held: set[int] = set()
        self._read_positions: dict[int, int] = {}
        self.stage = make_stage(self)

    def is_current(self, batch: Batch) -> bool:
        return batch.generation == self.generation and not self._needs_positions

    def rewind(self) -> None:
        self.generation += 1
        self._needs_positions = True

    invalidate_assignment = rewind

    async def sleep_current(self, batch: Batch, _seconds: float) -> bool:
        return self.is_current(batch)

    def assigned(self) -> set[int]:
        return self.partitions

    async def beginning_offset(self, _partition: int) -> int:
        return 0

    def set_paused(self, partitions: set[int]) -> None:
        self._held = partitions

    async def commit(self, offsets: Mapping[int, tuple[int, str]]) -> bool:
        if self.fenced or self._needs_positions or self._leaving == "too late":
            return False
        committed = self._broker.commits[self.group]
        for partition in offsets.keys() & committed.keys():
            before, after = (
                CommitMetadata.decode(text).event_time for _, text in (committed[partition], offsets[partition])
            )
            assert before is None or (after is not None and after >= before), "a commit took event time back"
        committed.update(offsets)
        return True

    async def assign(self, partitions: set[int], leaving: Leaving = "in time") -> None:
        """A rebalance, with the real listener."""
        self._leaving = leaving
        listener: Any = RebalanceListener(self, self.drain)  # type: ignore[arg-type]
        await listener.on_partitions_revoked([TopicPartition(self.topic, p) for p in self.partitions])
        self.partitions = partitions
        await listener.on_partitions_assigned([TopicPartition(self.topic, p) for p in partitions])
        self._leaving = "in time"

    async def drain(self, _seconds: float) -> None:
        if self._leaving != "with a batch in hand":
            await self.stage.commit()

    @property
    def client(self) -> "GroupMember":
        return self

    def pause(self, *_tps: TopicPartition) -> None:
        """Nothing is fetched ahead."""

    async def poll(self, most: int) -> int:
        """Runs one round: assigns partitions if needed, reads up to `most` records of each, and processes them."""
        if not self.partitions:
            return 0
        if self._needs_positions:
            try:
                starts: Mapping[int, Position | None] = await self.stage.start_positions(self._broker, self.partitions)
            except Retry:
                return 0
            self._read_positions = {p: start.offset if start else 0 for p, start in starts.items()}
            assert self._read_positions.keys() == self.partitions
            self._needs_positions, self._held = False, set()
        records, ends = {}, {}
        for partition in self.partitions - self._held - self.unreadable:
            found = self._broker.read(self.topic, partition, self._read_positions[partition], most)
            if found:
                records[partition] = found
                self._read_positions[partition] = found[-1].offset + 1
            if len(found) < most:
                ends[partition] = PartitionEnd(self._broker.clock.now, self._read_positions[partition])
        await self.stage.process(Batch(self.generation, records, ends))
        return sum(map(len, records.values()))
