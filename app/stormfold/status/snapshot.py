"""The state of the pipeline in Kafka and Redis at one moment: positions, lag, state version and memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient

from stormfold.kafka.committed import Committed, committed_offsets, newest_closed_before
from stormfold.kafka.reader import TopicReader
from stormfold.kafka.topics import partition_counts
from stormfold.redis.clock import Clock
from stormfold.redis.memory import Memory
from stormfold.redis.store import Store
from stormfold.redis.versions import State
from stormfold.settings import Settings

STAGES = ("intake", "fold", "correlate", "emit", "emit-incidents")
"""Readers of topics: stages, and of emit one for each kind of resource."""


class Extent(NamedTuple):
    """The first offset of a partition, and the ends of it."""

    begin: int
    end: int
    """The last stable offset: the offset after the last record that can be read."""
    log_end: int
    """The offset after the last record, which is later while a transaction is open."""


@dataclass(frozen=True)
class KafkaSnapshot:
    """Offsets in Kafka, by stage. Stages whose topic is missing are left out."""

    topics: dict[str, dict[int, Extent]] = field(default_factory=dict)
    """Extent of each partition of the stage's topic."""
    committed: dict[str, Committed] = field(default_factory=dict)

    @property
    def open_transactions(self) -> set[tuple[str, int, int]]:
        """Stage, partition and last stable offset where a transaction is open."""
        return {
            (stage, partition, extent.end)
            for stage, extents in self.topics.items()
            for partition, extent in extents.items()
            if extent.log_end > extent.end
        }


@dataclass(frozen=True)
class RedisSnapshot:
    """The state in Redis, without the open groups."""

    memory: Memory
    state: State | None
    clock: Clock | None
    intake: dict[int, int]
    """Offsets that intake has committed, by partition of `alerts`. Redis holds them in case Kafka forgets them."""


class StagePosition(NamedTuple):
    """The position of a stage in one partition."""

    stage: str
    topic: str
    partition: int
    begin: int
    end: int
    log_end: int
    position: int | None

    @property
    def lag(self) -> int:
        """Records that the stage can read and has not read yet."""
        return max(0, self.end - max(self.begin, self.position or 0))

    @property
    def unstable(self) -> int:
        """Records that the stage cannot read until an open transaction ends."""
        return max(0, self.log_end - self.end)


def topic_of(settings: Settings, stage: str) -> str:
    """The topic that a stage reads."""
    storms, incidents = settings.storms_topic, settings.incidents_topic
    topics = (settings.alerts_topic, settings.keyed_topic, storms, storms, incidents)
    return dict(zip(STAGES, topics, strict=True))[stage]


async def snapshot_kafka(settings: Settings, admin: AIOKafkaAdminClient, reader: TopicReader) -> KafkaSnapshot:
    """Asks Kafka for the extents of all partitions and for committed offsets."""
    found = KafkaSnapshot()
    existing = await partition_counts(admin)
    for stage in STAGES:
        if (topic := topic_of(settings, stage)) in existing:
            # In this order: otherwise records of the time in between would appear as an open transaction.
            begins, log_ends = await reader.beginning_offsets(topic), await reader.log_end_offsets(topic)
            ends = await reader.end_offsets(topic)
            found.topics[stage] = {p: Extent(begins[p], end, log_ends[p]) for p, end in ends.items()}
            found.committed[stage] = await committed_offsets(admin, settings.consumer_group(stage), topic)
    return found


async def snapshot_redis(store: Store) -> RedisSnapshot:
    """Asks Redis. Raises `Retry` or `ActionRequired`."""
    state = await store.load()
    return RedisSnapshot(
        memory=await store.memory(),
        state=state,
        clock=None if state is None else await store.clock(state.version),
        intake={partition: offset for partition, (offset, _) in (await store.intake_commits()).items()},
    )


def stage_positions(settings: Settings, kafka: KafkaSnapshot, redis: RedisSnapshot | None) -> Iterator[StagePosition]:
    """The position of each stage in each partition, in order.

    The positions of fold are in Redis; those of intake are also there if Kafka has forgotten them.
    """
    for stage, extents in kafka.topics.items():
        positions = {partition: offset for partition, (offset, _) in kafka.committed[stage].items()}
        if stage == "intake" and redis is not None:
            positions = redis.intake | positions
        if stage == "fold" and redis is not None and redis.state is not None:
            positions = {partition: at.offset for partition, at in redis.state.positions.items()}
            # Partitions that were added later are unmanaged: they are not part of the state version.
            extents = {partition: extent for partition, extent in extents.items() if partition in positions}
        for partition, extent in sorted(extents.items()):
            yield StagePosition(stage, topic_of(settings, stage), partition, *extent, positions.get(partition))


def closed_until(kafka: KafkaSnapshot) -> int | None:
    """The newest `closed_before` in a commit of fold (ms): every aggregate that begins before it is published."""
    return newest_closed_before(kafka.committed.get("fold", {}))
