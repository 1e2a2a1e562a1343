"""Redis fails over while alerts arrive: workers find the new primary, and every alert is counted once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import create
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.redis import EmbeddedRedis
from stormfold.redis.store import Store
from stormfold.settings import Settings
from tests.support.cli import stormfold
from tests.support.pipeline import Pipeline, publish_live
from tests.support.redis_servers import Switch, promote, replicate
from tests.support.servers import PARTITIONS, fresh_settings, until
from tests.support.workers import Workers

RECOVERY = 15.0
"""Seconds in which a worker uses the new primary."""


@asynccontextmanager
async def open_pipeline(kafka: EmbeddedKafka, redis: EmbeddedRedis, url: str, folder: Path) -> AsyncIterator[Pipeline]:
    """A pipeline with short windows whose workers reach Redis at `url`."""
    settings = fresh_settings(kafka, redis).model_copy(update={"redis_url": url})
    async with open_admin(settings) as admin:
        await create(admin, wanted_topics(settings, PARTITIONS, producer_timestamps=True, max_record=2_000_000))
    with Workers(settings, folder) as workers:
        pipeline = Pipeline(settings, workers)
        pipeline.configure()
        yield pipeline


async def folded(settings: Settings, server: EmbeddedRedis) -> int:
    """Records of the keyed topic that are folded in this server."""
    async with Redis.from_url(server.url) as client:
        state = await Store(client, settings.redis_prefix).load()
    return 0 if state is None else sum(position.offset for position in state.positions.values())


async def until_it_folds(settings: Settings, server: EmbeddedRedis) -> None:
    """Waits until workers fold in this server."""
    before = await folded(settings, server)

    async def more() -> bool:
        return await folded(settings, server) > before

    await until(more, RECOVERY, f"workers fold in {server.address}")


@pytest.fixture
async def replica(own_redis: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """A replica of the test's own Redis."""
    server = EmbeddedRedis(tmp_path / "replica")
    await asyncio.to_thread(server.start)
    await replicate(server, own_redis)
    yield server
    await asyncio.to_thread(server.stop)


async def test_a_worker_follows_an_address_that_switches_while_the_old_primary_keeps_its_connections(
    kafka: EmbeddedKafka, own_redis: EmbeddedRedis, replica: EmbeddedRedis, tmp_path: Path
) -> None:
    """There and back, under load."""
    async with (
        Switch(own_redis.port) as switch,
        open_pipeline(kafka, own_redis, switch.url, tmp_path) as pipeline,
    ):
        pipeline.start()
        publishing = asyncio.ensure_future(publish_live(pipeline.settings, 16.0, 21))
        old, new = own_redis, replica
        for _ in range(2):
            await until_it_folds(pipeline.settings, old)
            await promote(new)
            switch.target = new.port
            await replicate(old, new)
            await until_it_folds(pipeline.settings, new)
            old, new = new, old
        await pipeline.assert_keyed_model(alerts=await publishing)


async def test_a_worker_and_status_report_an_address_that_leads_to_a_replica(
    kafka: EmbeddedKafka, own_redis: EmbeddedRedis, replica: EmbeddedRedis, tmp_path: Path
) -> None:
    async with open_pipeline(kafka, own_redis, replica.url, tmp_path) as pipeline:
        message = f"Redis at {replica.address} is a replica of {own_redis.address} and accepts no writes"
        pipeline.start()
        await until(lambda: message in pipeline.logs(), what="the worker reports the replica")
        status = await stormfold(pipeline.settings, "status")
        assert status.returncode == 1 and message in status.stderr, status
        assert "redis+sentinel://" in status.stderr
