"""A partition more for a topic, while alerts come in."""

import time
from pathlib import Path

import pytest
from aiokafka.admin import NewPartitions
from redis.asyncio import Redis

from stormfold.config import load
from stormfold.kafka.client import open_admin
from stormfold.kafka.committed import read_committed
from stormfold.keyed_record import MARKS, decode_marks
from stormfold.settings import Settings
from tests.conftest import PARTITIONS
from tests.support.pipeline import (
    Sent,
    Workers,
    alert,
    assert_balanced,
    drained,
    essence,
    keyed_model,
    publish,
    read_topic,
    record,
    storms,
)
from tests.support.servers import until


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Short windows."""
    path = tmp_path / "stormfold.yaml"
    path.write_text("windows: {gap: 2s, grace: 2s, slice: 10s}\n")
    return path


@pytest.fixture
def patient(config: Path) -> Path:
    """The same with the grace that is the default."""
    config.write_text(config.read_text().replace("grace: 2s", "grace: 10s"))
    return config


async def happen(settings: Settings, name: str, partition: int = 0) -> None:
    """Thirty alerts, now."""
    now = time.time_ns() // 1_000_000
    await publish(settings, [Sent(now, record(alert(name, pod=f"pod-{n}")), partition) for n in range(30)])


async def add_partition(settings: Settings, topic: str) -> None:
    """The number that all topics have, and one."""
    async with open_admin(settings) as admin:
        await admin.create_partitions({topic: NewPartitions(PARTITIONS + 1)})


async def committed(settings: Settings, stage: str, topic: str) -> None:
    """Waits until a stage has committed."""
    await until(lambda: read_committed(settings, settings.consumer_group(stage), topic), what=f"{stage} commits")


async def proven(settings: Settings, config: Path, alerts: int) -> None:
    """So many alerts, each in the storm that the log decides; none of them late."""
    books = await drained(settings, config)
    assert_balanced(books, alerts=alerts)
    published = await storms(settings)
    assert not any(storm.late for storm in published.values())
    assert {name: essence(storm) for name, storm in published.items()} == await keyed_model(settings, load(config))


async def test_alerts(topics: Settings, patient: Path, tmp_path: Path) -> None:
    """What the new partition gets at once is read within the default grace; from its first mark on it counts for the
    horizon."""
    with Workers(topics, tmp_path, patient) as workers:
        workers.start()
        await happen(topics, "Old")
        await committed(topics, "intake", topics.alerts_topic)
        await add_partition(topics, topics.alerts_topic)
        await happen(topics, "New", PARTITIONS)
        await proven(topics, patient, 60)
    keyed = [found.value for found in await read_topic(topics, topics.keyed_topic)]
    marks = [decode_marks(value) for value in keyed if value[0] == MARKS]
    assert any(PARTITIONS in mark.progress for mark in marks)
    assert all(max(mark.progress) < mark.partitions for mark in marks)


async def test_keyed_then_redis_lost(topics: Settings, config: Path, redis: Redis, tmp_path: Path) -> None:
    """Alerts stay in the partitions that they had: the next epoch has no more than the one before."""
    with Workers(topics, tmp_path, config) as workers:
        workers.start()
        await happen(topics, "Old")
        await committed(topics, "fold", topics.keyed_topic)
        await add_partition(topics, topics.keyed_topic)
        await redis.flushall()
        await happen(topics, "New")
        await proven(topics, config, 60)
    assert {found.partition for found in await read_topic(topics, topics.keyed_topic)} == set(range(PARTITIONS))


async def test_keyed_before_fold(topics: Settings, config: Path, redis: Redis, tmp_path: Path) -> None:
    """Nothing was folded yet when Redis was lost: the new epoch has the new partition, and intake goes over to it."""
    with Workers(topics, tmp_path, config) as workers:
        workers.start(stages="intake")
        await happen(topics, "Old")
        await committed(topics, "intake", topics.alerts_topic)
        await add_partition(topics, topics.keyed_topic)
        await redis.flushall()
        workers.start(stages="fold,close")
        await happen(topics, "New")
        await proven(topics, config, 60)
    assert {found.partition for found in await read_topic(topics, topics.keyed_topic)} == set(range(PARTITIONS + 1))
