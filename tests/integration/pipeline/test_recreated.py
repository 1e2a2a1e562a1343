"""Deleted and recreated topics: workers refuse them until `stormfold topics --reset-positions`, then read them."""

import asyncio
import subprocess
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from stormfold.errors import ActionRequired
from stormfold.kafka.client import client_options, open_admin
from stormfold.kafka.committed import read_committed
from stormfold.kafka.topics import create
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.stages import reset_positions as resetting
from tests.support import incident_manifests, storms
from tests.support.alerts import alert, record, spread
from tests.support.pipeline import Pipeline, aggregates
from tests.support.servers import PARTITIONS, until
from tests.support.workers import stop

NOW = 1_780_000_000_000
LATER = NOW + 1_000_000


async def recreate(settings: Settings, topic: str, partitions: int = PARTITIONS) -> None:
    """Deletes a topic and creates it again."""

    async def deleted(admin: Any) -> bool:
        return topic not in await admin.list_topics()

    async with open_admin(settings) as admin:
        await admin.delete_topics([topic])
        await until(lambda: deleted(admin), what=f"{topic} is deleted")
        await create(admin, wanted_topics(settings, partitions, producer_timestamps=True, max_record=2_000_000))


async def reset_positions(settings: Settings) -> list[str]:
    """Does what `stormfold topics --reset-positions` does; returns the partitions that it reset."""
    async with connect(settings) as redis:
        return await resetting.reset_positions(settings, Store(redis, settings.redis_prefix))


async def alerts_of(settings: Settings, name: str) -> int:
    """Counts the alerts in published aggregates of that alert name."""
    found = (await aggregates(settings)).values()
    return sum(aggregate.alert_count for aggregate in found if aggregate.group_labels["alertname"] == name)


async def wait_for_alerts(settings: Settings, name: str, count: int) -> None:
    """Waits until `count` alerts of that name are in published aggregates."""

    async def complete() -> bool:
        return await alerts_of(settings, name) == count

    await until(complete, what=f"{count} alerts {name} are published")


async def fold_old_alerts(pipeline: Pipeline) -> subprocess.Popen[bytes]:
    """Publishes 300 alerts `Old`, and returns the worker that has closed them all."""
    await pipeline.publish(spread("Old", 300, NOW))
    worker = pipeline.start()
    await pipeline.drained()
    return worker


async def wait_for_refusal(pipeline: Pipeline) -> None:
    """Waits until a worker has logged that it refuses a recreated topic."""
    await until(lambda: "created again" in pipeline.logs(), what="the recreated topic is refused")


async def test_a_recreated_alerts_topic_is_refused_until_positions_are_reset(short_pipeline: Pipeline) -> None:
    """New offsets start at 0. After the reset, alerts count although their source positions look old."""
    settings = short_pipeline.settings
    await stop(await fold_old_alerts(short_pipeline))
    await recreate(settings, settings.alerts_topic)
    await short_pipeline.publish(spread("New", 90, LATER))
    refusing = short_pipeline.start()
    await wait_for_refusal(short_pipeline)
    await stop(refusing)
    assert await alerts_of(settings, "New") == 0

    assert await reset_positions(settings) == [f"{settings.alerts_topic}-{p}" for p in range(PARTITIONS)]
    short_pipeline.start()
    await wait_for_alerts(settings, "New", 90)
    assert await alerts_of(settings, "Old") == 300


async def test_a_recreated_keyed_topic_is_refused_until_positions_are_reset(short_pipeline: Pipeline) -> None:
    """The positions in Redis are beyond the end of the new topic. After the reset, new alerts are folded."""
    settings = short_pipeline.settings
    await stop(await fold_old_alerts(short_pipeline))
    await recreate(settings, settings.keyed_topic)
    refusing = short_pipeline.start()
    await wait_for_refusal(short_pipeline)
    await stop(refusing)

    assert await reset_positions(settings) == [f"{settings.keyed_topic}-{p}" for p in range(PARTITIONS)]
    short_pipeline.start()
    await short_pipeline.publish(spread("New", 90, LATER))
    await wait_for_alerts(settings, "New", 90)


async def test_positions_are_reset_in_topics_that_were_recreated_with_fewer_partitions(pipeline: Pipeline) -> None:
    """`alerts` may have fewer, and its new alerts are counted; the keyed topic needs those of the state in Redis."""
    settings = pipeline.settings
    pipeline.configure("windows: {gap: 2s, grace: 1s, slice: 10s}\nidle_timeout: 5s\n")
    await stop(await fold_old_alerts(pipeline))
    await recreate(settings, settings.alerts_topic, PARTITIONS - 1)
    assert await reset_positions(settings) == [f"{settings.alerts_topic}-{p}" for p in range(PARTITIONS - 1)]
    await pipeline.publish(spread("New", 90, LATER, partitions=PARTITIONS - 1))
    worker = pipeline.start()
    await wait_for_alerts(settings, "New", 90)
    await stop(worker)

    await recreate(settings, settings.keyed_topic, PARTITIONS - 1)
    with pytest.raises(ActionRequired, match=f"{settings.keyed_topic} has 2 partitions, .* is of 3"):
        await reset_positions(settings)


async def test_positions_that_fit_their_topics_are_not_reset(pipeline: Pipeline) -> None:
    await pipeline.publish(spread("Old", 30, NOW))
    pipeline.start()
    await pipeline.drained()
    assert await reset_positions(pipeline.settings) == []


async def test_a_position_behind_the_marker_of_a_transaction_fits_its_topic(short_pipeline: Pipeline) -> None:
    """No record is between the marker and the end, and no other one arrives."""
    settings = short_pipeline.settings
    async with (
        AIOKafkaProducer(**client_options(settings), transactional_id=settings.group_prefix) as producer,
        producer.transaction(),
    ):
        await producer.send_and_wait(settings.alerts_topic, record(alert("Old")), partition=0, timestamp_ms=NOW)
    worker = short_pipeline.start(stages="intake")

    async def behind_the_marker() -> bool:
        committed = await read_committed(settings, settings.consumer_group("intake"), settings.alerts_topic)
        return 0 in committed and committed[0][0] == 2

    await until(behind_the_marker, 60, "intake commits a position behind the marker")
    await stop(worker)
    async with asyncio.timeout(60):
        assert await reset_positions(settings) == []


async def test_a_running_worker_refuses_a_topic_that_is_recreated_under_it(short_pipeline: Pipeline) -> None:
    settings = short_pipeline.settings
    await fold_old_alerts(short_pipeline)
    await recreate(settings, settings.alerts_topic)
    await short_pipeline.publish(spread("New", 90, LATER))
    await wait_for_refusal(short_pipeline)
    assert await alerts_of(settings, "New") == 0


async def test_storms_and_incidents_are_refused_beyond_their_ends_until_positions_are_reset(
    short_pipeline: Pipeline,
) -> None:
    """Kafka forgets commits with their topic; these are of a topic that was restored from an older copy."""
    settings, folder = short_pipeline.settings, short_pipeline.workers.folder / "written"
    made = {"emit": settings.storms_topic, "emit-incidents": settings.incidents_topic}
    for group, topic in made.items():
        async with AIOKafkaConsumer(
            **client_options(settings), group_id=settings.consumer_group(group), enable_auto_commit=False
        ) as consumer:
            consumer.assign([TopicPartition(topic, 0)])
            await consumer.commit({TopicPartition(topic, 0): 7})
    refusing = short_pipeline.start(stages="emit", sink=f"directory:{folder}")
    await until(lambda: short_pipeline.logs().count("created again") >= 2, what="both topics are refused")
    await stop(refusing)

    assert await reset_positions(settings) == [f"{topic}-0" for topic in made.values()]
    short_pipeline.start(stages="emit", sink=f"directory:{folder}")
    async with AIOKafkaProducer(**client_options(settings)) as producer:
        await producer.send_and_wait(settings.storms_topic, record(storms.manifest("new")), b"new", 0)
        await producer.send_and_wait(settings.incidents_topic, record(incident_manifests.manifest("new")), b"new", 0)
    paths = folder / "storms.new.yaml", folder / "incidents" / "storms.new.yaml"
    await until(lambda: all(path.exists() for path in paths), what="both are written")
