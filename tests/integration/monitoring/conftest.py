"""Each test has a Redis of its own, to freeze and to fill."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """One to freeze."""
    server = EmbeddedRedis(tmp_path / "redis")
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.kill)


@pytest.fixture
def settings(settings: Settings, own_redis: EmbeddedRedis) -> Settings:
    """With that Redis."""
    return settings.model_copy(update={"redis_url": own_redis.url})
