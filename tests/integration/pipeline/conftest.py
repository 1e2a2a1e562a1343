"""What the pipeline's tests share: small windows, and workers that are gone when the test is."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import create
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings
from tests.support.pipeline import Workers


class Brisk(NamedTuple):
    """Servers that a test may stop, and settings to use them."""

    settings: Settings
    kafka: EmbeddedKafka
    redis: EmbeddedRedis


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """Windows small enough that nobody waits for them."""
    path = tmp_path / "stormfold.yaml"
    path.write_text("windows: {gap: 2s, grace: 1s, slice: 10s}\n")
    return path


@pytest.fixture
def workers(topics: Settings, tmp_path: Path) -> Iterator[Workers]:
    """Workers on the topics of the test."""
    with Workers(topics, tmp_path) as workers:
        yield workers
    print(workers.logs())


@pytest.fixture
def past() -> int:
    """An hour and a bit ago (ms), on a multiple of every window: all that is published then is over."""
    hour = 3_600_000
    return (time.time_ns() // 1_000_000 // hour - 1) * hour


@pytest.fixture(scope="session")
def brisk_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker that may be stopped, and that knows within two seconds that a worker is dead."""
    broker = EmbeddedKafka(tmp_path_factory.mktemp("brisk"), properties={"group.min.session.timeout.ms": "1000"})
    yield broker
    broker.stop()


@pytest.fixture
async def brisk(brisk_kafka: EmbeddedKafka, settings: Settings, tmp_path: Path) -> AsyncIterator[Brisk]:
    """Topics in that broker, and a Redis of the test's own."""
    redis = EmbeddedRedis(tmp_path / "redis")
    await asyncio.gather(asyncio.to_thread(brisk_kafka.start), asyncio.to_thread(redis.start))
    own = settings.model_copy(
        update={
            "kafka_bootstrap_servers": brisk_kafka.bootstrap, "redis_url": redis.url,
            "session_timeout": 2.0, "delivery_timeout": 2.0, "close_lease": 5.0,
        }
    )  # fmt: skip
    async with open_admin(own) as admin:
        await create(admin, wanted_topics(own, 3, past=True, max_record=12_000_000))
    yield Brisk(own, brisk_kafka, redis)
    await asyncio.to_thread(redis.stop)
