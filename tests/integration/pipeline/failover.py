"""Pipelines on a Redis that fails over, and how far they are in one of its servers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import create
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.redis import EmbeddedRedis
from stormfold.redis.errors import StaleStateVersion
from stormfold.redis.store import Store
from stormfold.redis.versions import State
from stormfold.settings import Settings
from tests.support.pipeline import Pipeline
from tests.support.servers import PARTITIONS, fresh_settings, until
from tests.support.workers import Workers

RECOVERY = 60.0
"""Seconds in which a worker uses the new primary: far more than it takes."""


@asynccontextmanager
async def open_pipeline(
    kafka: EmbeddedKafka, redis: EmbeddedRedis, folder: Path, **settings: Any
) -> AsyncIterator[Pipeline]:
    """A pipeline with short windows, whose workers have these settings."""
    made = Settings(**{**fresh_settings(kafka, redis).model_dump(exclude_unset=True), **settings})
    async with open_admin(made) as admin:
        await create(admin, wanted_topics(made, PARTITIONS, producer_timestamps=True, max_record=2_000_000))
    with Workers(made, folder) as workers:
        pipeline = Pipeline(made, workers)
        pipeline.configure()
        yield pipeline


async def folded(settings: Settings, client: Redis) -> int:
    """Records of the keyed topic that are folded in the server of the client, which is closed."""

    async def load() -> State | None:
        # A worker may open a state version between two reads.
        while True:
            with suppress(StaleStateVersion):
                return await Store(client, settings.redis_prefix).load()

    async with client:
        state = await load()
    return 0 if state is None else sum(position.offset for position in state.positions.values())


async def until_it_folds(settings: Settings, client: Redis) -> None:
    """Waits until workers fold in the server of the client."""
    before = await folded(settings, client)

    async def more() -> bool:
        return await folded(settings, client) > before

    await until(more, RECOVERY, "workers fold in this server")
