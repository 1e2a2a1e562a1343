"""Servers of the test run: one Kafka, one Redis. Each test has its own topics, consumer groups and keys in them."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import create
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings
from tests.support.pipeline import SHORT_WINDOWS
from tests.support.servers import MAX_RECORD, PARTITIONS, fresh_settings


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[EmbeddedKafka]:
    """The broker of this run. A test that stops it must start it again."""
    # Under xdist only the controlling process has a terminal for the progress of the download.
    terminal = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    broker = EmbeddedKafka(tmp_path_factory.mktemp("kafka"), on_progress=terminal.write_line if terminal else print)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """The Redis of this run. A test that stops it must start it again."""
    server = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def redis(redis_server: EmbeddedRedis) -> AsyncIterator[Redis]:
    """A client of an empty database."""
    async with Redis.from_url(redis_server.url, decode_responses=False) as client:
        await client.flushall()
        yield client


@pytest.fixture
def settings(kafka: EmbeddedKafka, redis_server: EmbeddedRedis) -> Settings:
    """Settings with topics, groups and keys of the test's own. No topic exists yet."""
    return fresh_settings(kafka, redis_server)


@pytest.fixture
async def topics(settings: Settings) -> Settings:
    """The same settings, with the five topics created; `alerts` takes any timestamp and records up to 12 MB."""
    async with open_admin(settings) as admin:
        await create(admin, wanted_topics(settings, PARTITIONS, producer_timestamps=True, max_record=MAX_RECORD))
    return settings


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A configuration file with windows that close within seconds."""
    path = tmp_path / "stormfold.yaml"
    path.write_text(SHORT_WINDOWS)
    return path
