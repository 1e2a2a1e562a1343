"""What Kafka and Redis say of the pipeline: where each stage is in its topic, the epoch, event time, memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient

from stormfold.kafka.committed import Committed, committed_offsets, newest_closed
from stormfold.kafka.reader import TopicReader
from stormfold.kafka.topics import partition_counts
from stormfold.redis.store import Clock, Memory, State, Store
from stormfold.settings import Settings

STAGES = ("intake", "fold", "emit")
"""Those that read a topic."""


class Extent(NamedTuple):
    """The offsets of a partition."""

    begin: int
    end: int


@dataclass(frozen=True)
class KafkaSnapshot:
    """What Kafka says."""

    topics: dict[str, dict[int, Extent]] = field(default_factory=dict)
    """By stage; without those whose topic is missing."""
    committed: dict[str, Committed] = field(default_factory=dict)


@dataclass(frozen=True)
class RedisSnapshot:
    """What Redis says."""

    memory: Memory
    state: State | None
    clock: Clock | None
    intake: dict[int, int]
    """What intake had committed."""


class Place(NamedTuple):
    """Where a stage is in a partition."""

    stage: str
    topic: str
    partition: int
    extent: Extent
    position: int | None

    @property
    def behind(self) -> int:
        """Records that it has still to read."""
        return max(0, self.extent.end - max(self.extent.begin, self.position or 0))


def topic_of(settings: Settings, stage: str) -> str:
    """The topic that a stage reads."""
    topics = (settings.alerts_topic, settings.keyed_topic, settings.storms_topic)
    return dict(zip(STAGES, topics, strict=True))[stage]


async def snapshot_kafka(settings: Settings, admin: AIOKafkaAdminClient, tail: TopicReader) -> KafkaSnapshot:
    """Asks for the ends of partitions and what was committed."""
    found = KafkaSnapshot()
    present = await partition_counts(admin)
    for stage in STAGES:
        if (topic := topic_of(settings, stage)) in present:
            begins, ends = await tail.begins(topic), await tail.ends(topic)
            found.topics[stage] = {partition: Extent(begins[partition], end) for partition, end in ends.items()}
            found.committed[stage] = await committed_offsets(admin, settings.consumer_group(stage), topic)
    return found


async def snapshot_redis(store: Store) -> RedisSnapshot:
    """Asks for everything but what is open. Raises `Retry` or `ActionRequired`."""
    state = await store.load()
    return RedisSnapshot(
        memory=await store.memory(),
        state=state,
        clock=None if state is None else await store.clock(state.epoch),
        intake={partition: offset for partition, (offset, _) in (await store.kept_intake()).items()},
    )


def places(settings: Settings, kafka: KafkaSnapshot, redis: RedisSnapshot | None) -> Iterator[Place]:
    """Each stage in each partition, in order. Fold's positions are Redis'; intake's too, where Kafka forgot them."""
    for stage, extents in kafka.topics.items():
        positions = {partition: offset for partition, (offset, _) in kafka.committed[stage].items()}
        if stage == "intake" and redis is not None:
            positions = redis.intake | positions
        if stage == "fold" and redis is not None and redis.state is not None:
            positions = {partition: at.offset for partition, at in redis.state.positions.items()}
            # Others came later; an epoch keeps to those that it began with.
            extents = {partition: extent for partition, extent in extents.items() if partition in positions}
        for partition, extent in sorted(extents.items()):
            yield Place(stage, topic_of(settings, stage), partition, extent, positions.get(partition))


def closed_until(kafka: KafkaSnapshot) -> int | None:
    """The newest C in a commit of fold (ms): every storm that begins before it is published."""
    return newest_closed(kafka.committed.get("fold", {}))
