"""A world that most scenarios begin with."""

from random import Random

import pytest
from redis.asyncio import Redis

from tests.integration.model.world import DEFAULT, IDLE_TIMEOUT, World


@pytest.fixture
async def world(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> World:
    """Two partitions of each topic, default windows, and the usual idle timeout."""
    return World(redis, monkeypatch, DEFAULT, 2, 2, Random(1), idle_timeout=IDLE_TIMEOUT)
