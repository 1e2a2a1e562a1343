"""A Redis for each test, so that it can be frozen and filled."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """A Redis that no other test uses."""
    server = EmbeddedRedis(tmp_path / "redis")
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.kill)


@pytest.fixture
def settings(settings: Settings, own_redis: EmbeddedRedis) -> Settings:
    """Settings with that Redis."""
    return settings.model_copy(update={"redis_url": own_redis.url})
