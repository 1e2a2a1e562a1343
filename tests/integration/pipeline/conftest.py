"""Pipelines of a test's own: on the servers of the test run, or on servers that the test may stop."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import create
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings
from tests.support.pipeline import Pipeline
from tests.support.servers import MAX_RECORD, PARTITIONS, fresh_settings
from tests.support.workers import Workers


@pytest.fixture
def workers(topics: Settings, tmp_path: Path) -> Iterator[Workers]:
    """Workers on the topics of the test."""
    with Workers(topics, tmp_path) as workers:
        yield workers
    print(workers.logs())


@pytest.fixture
def pipeline(topics: Settings, workers: Workers) -> Pipeline:
    """A pipeline with the default configuration."""
    return Pipeline(topics, workers)


@pytest.fixture
def short_pipeline(pipeline: Pipeline) -> Pipeline:
    """A pipeline with windows that close within seconds."""
    pipeline.configure()
    return pipeline


@pytest.fixture
def past() -> int:
    """A time (ms) one to two hours ago, on a multiple of every window: sessions published at it are over."""
    hour = 3_600_000
    return (time.time_ns() // 1_000_000 // hour - 1) * hour


@pytest.fixture(scope="session")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker that a test may stop, and that allows session timeouts from one second on."""
    broker = EmbeddedKafka(tmp_path_factory.mktemp("own-kafka"), properties={"group.min.session.timeout.ms": "1000"})
    yield broker
    broker.stop()


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """A Redis of the test's own, which it may stop."""
    server = EmbeddedRedis(tmp_path / "redis")
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.stop)


@pytest.fixture
async def own_pipeline(own_kafka: EmbeddedKafka, own_redis: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[Pipeline]:
    """A pipeline on servers that the test may stop, with short timeouts and the default configuration."""
    await asyncio.to_thread(own_kafka.start)
    settings = fresh_settings(own_kafka, own_redis, session_timeout=2.0, delivery_timeout=2.0, close_lease=5.0)
    async with open_admin(settings) as admin:
        await create(admin, wanted_topics(settings, PARTITIONS, producer_timestamps=True, max_record=MAX_RECORD))
    with Workers(settings, tmp_path) as workers:
        yield Pipeline(settings, workers)
