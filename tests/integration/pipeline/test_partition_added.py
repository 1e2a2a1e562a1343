"""A partition is added to a topic while alerts arrive."""

from collections.abc import Iterator

from aiokafka.admin import NewPartitions
from redis.asyncio import Redis

from stormfold.kafka.client import open_admin
from stormfold.kafka.committed import read_committed
from stormfold.kafka.topics import partition_counts
from stormfold.keyed_record import MARKS, decode_marks
from stormfold.settings import Settings
from tests.support.alerts import Sent, alert, now, record
from tests.support.pipeline import Pipeline
from tests.support.servers import PARTITIONS, until

DEFAULT_GRACE = "windows: {gap: 2s, grace: 10s, slice: 10s}\n"
SHORT_GRACE = "windows: {gap: 2s, grace: 2s, slice: 10s}\n"


async def publish_now(pipeline: Pipeline, name: str, partition: int = 0) -> None:
    """Publishes thirty alerts of the time at which the producer is connected."""

    def current() -> Iterator[Sent]:
        time = now()
        for n in range(30):
            yield Sent(time, record(alert(name, pod=f"pod-{n}")), partition)

    await pipeline.publish(current())


async def add_partition(settings: Settings, topic: str) -> None:
    """Adds one partition to a topic, and waits until clients see it."""
    async with open_admin(settings) as admin:
        await admin.create_partitions({topic: NewPartitions(PARTITIONS + 1)})

        async def added() -> bool:
            return (await partition_counts(admin))[topic] > PARTITIONS

        await until(added, what=f"{topic} has one more partition")


async def committed(settings: Settings, stage: str, topic: str) -> None:
    """Waits until a stage has committed."""
    await until(lambda: read_committed(settings, settings.consumer_group(stage), topic), what=f"{stage} commits")


async def assert_nothing_late(pipeline: Pipeline) -> None:
    """Asserts that 60 alerts are counted, each in the aggregate that the keyed topic decides, none of them late."""
    await pipeline.assert_keyed_model(alerts=60)
    assert not any(aggregate.late for aggregate in (await pipeline.aggregates()).values())


async def test_a_partition_added_to_alerts_is_read_within_the_default_grace(pipeline: Pipeline) -> None:
    """Alerts published to it at once are not late, and its progress counts for the horizon from its first mark on."""
    settings = pipeline.settings
    pipeline.configure(DEFAULT_GRACE)
    pipeline.start()
    await publish_now(pipeline, "Old")
    await committed(settings, "intake", settings.alerts_topic)
    await add_partition(settings, settings.alerts_topic)
    await publish_now(pipeline, "New", PARTITIONS)
    await assert_nothing_late(pipeline)

    keyed = [found.value for found in await pipeline.read(settings.keyed_topic)]
    marks = [decode_marks(value) for value in keyed if value[0] == MARKS]
    assert any(PARTITIONS in mark.progress for mark in marks)
    assert all(max(mark.progress) < mark.partitions for mark in marks)


async def test_a_partition_added_to_the_keyed_topic_is_not_used_even_after_redis_is_lost(
    pipeline: Pipeline, redis: Redis
) -> None:
    """The next state version has no more partitions than the one before."""
    settings = pipeline.settings
    pipeline.configure(SHORT_GRACE)
    pipeline.start()
    await publish_now(pipeline, "Old")
    await committed(settings, "fold", settings.keyed_topic)
    await add_partition(settings, settings.keyed_topic)
    await redis.flushall()
    await publish_now(pipeline, "New")
    await assert_nothing_late(pipeline)
    assert {found.partition for found in await pipeline.read(settings.keyed_topic)} == set(range(PARTITIONS))


async def test_a_partition_added_to_the_keyed_topic_before_anything_is_folded_is_used(
    pipeline: Pipeline, redis: Redis
) -> None:
    """Redis is lost before the first fold: the new state version has the new partition, and intake begins to use it."""
    settings = pipeline.settings
    pipeline.configure(SHORT_GRACE)
    pipeline.start(stages="intake")
    await publish_now(pipeline, "Old")
    await committed(settings, "intake", settings.alerts_topic)
    await add_partition(settings, settings.keyed_topic)
    await redis.flushall()
    pipeline.start(stages="fold,close")
    await publish_now(pipeline, "New")
    await assert_nothing_late(pipeline)
    assert {found.partition for found in await pipeline.read(settings.keyed_topic)} == set(range(PARTITIONS + 1))
