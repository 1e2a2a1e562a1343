"""Servers of the test run: one Kafka, one Redis; each test has its own topics, groups and keys in them."""

import os
import signal
import uuid
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import create
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import PREFIX, Settings

PARTITIONS = 3
"""Of the topics a test gets: enough for several members of a group and for skew."""


def pytest_configure() -> None:
    """Whatever the environment says, tests run against their own servers, and Ctrl-C ends what they start."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    # A shell has what it starts in the background ignore it, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def fresh_settings(kafka: EmbeddedKafka, redis: EmbeddedRedis) -> Settings:
    """Settings for these servers whose topics, groups and keys nobody else has."""
    name = f"t{uuid.uuid4().hex[:10]}"
    return Settings(
        kafka_bootstrap_servers=kafka.bootstrap,
        redis_url=redis.url,
        redis_prefix=name,
        group_prefix=name,
        alerts_topic=f"{name}-alerts",
        keyed_topic=f"{name}-keyed",
        storms_topic=f"{name}-storms",
        alerts_dlq_topic=f"{name}-dead",
        storms_dlq_topic=f"{name}-storms-dlq",
        http_address="127.0.0.1:0",
    )


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[EmbeddedKafka]:
    """The broker of this run. A test that stops it starts it again."""
    # Only the process that runs the others has a terminal to tell of a download on.
    terminal = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    tell = terminal.write_line if terminal else print
    broker = EmbeddedKafka(tmp_path_factory.mktemp("kafka"), on_progress=tell)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """The Redis of this run. A test that stops it starts it again."""
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
    """Settings whose topics, groups and keys are no other test's. Nothing is created yet."""
    return fresh_settings(kafka, redis_server)


@pytest.fixture
async def topics(settings: Settings) -> Settings:
    """The same with the five topics made; `alerts` takes any timestamp and records up to 12 MB."""
    async with open_admin(settings) as admin:
        await create(admin, wanted_topics(settings, PARTITIONS, past=True, max_record=12_000_000))
    return settings


def _refuse_skip(report: Any) -> Any:
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not accept: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """In CI a skipped test is one that has not been run, so it fails."""
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """The same for whole modules."""
    return _refuse_skip((yield))
