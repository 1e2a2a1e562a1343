"""Redis fails over while alerts arrive: workers find the new primary, and every alert is counted once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.redis import EmbeddedRedis
from tests.integration.pipeline.failover import open_pipeline, until_it_folds
from tests.support.cli import stormfold
from tests.support.pipeline import publish_live
from tests.support.redis_servers import Switch, promote, replicate
from tests.support.servers import until


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
        open_pipeline(kafka, own_redis, tmp_path, redis_url=switch.url) as pipeline,
    ):
        pipeline.start()
        publishing = asyncio.ensure_future(publish_live(pipeline.settings, 16.0, 21))
        old, new = own_redis, replica
        for _ in range(2):
            await until_it_folds(pipeline.settings, Redis.from_url(old.url))
            await promote(new)
            switch.target = new.port
            await replicate(old, new)
            await until_it_folds(pipeline.settings, Redis.from_url(new.url))
            old, new = new, old
        await pipeline.assert_keyed_model(alerts=await publishing)


async def test_a_worker_and_status_report_an_address_that_leads_to_a_replica(
    kafka: EmbeddedKafka, own_redis: EmbeddedRedis, replica: EmbeddedRedis, tmp_path: Path
) -> None:
    async with open_pipeline(kafka, own_redis, tmp_path, redis_url=replica.url) as pipeline:
        message = f"Redis at {replica.address} is a replica of {own_redis.address} and accepts no writes"
        pipeline.start()
        await until(lambda: message in pipeline.logs(), what="the worker reports the replica")
        status = await stormfold(pipeline.settings, "status")
        assert status.returncode == 1 and message in status.stderr, status
        assert "redis+sentinel://" in status.stderr
