"""Starts every Redis server found on this machine once; each test has an empty one without limits."""

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from stormfold.local.redis import EmbeddedRedis, RedisBinary
from stormfold.redis.store import Store
from tests.support.redis_servers import every_server


@pytest.fixture(scope="session", params=every_server(), ids=str)
def redis_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """One of the servers, for all tests of this folder."""
    binary: RedisBinary = request.param
    server = EmbeddedRedis(tmp_path_factory.mktemp(str(binary)), binary=binary.path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def store(redis: Redis) -> AsyncIterator[Store]:
    """A store in an empty Redis. Fails a test that leaves a key with a time to live that is not a lease."""
    await redis.config_set("maxmemory", 0)
    store = Store(redis, "stormfold")
    yield store
    await redis.config_set("maxmemory", 0)
    keys = [key async for key in redis.scan_iter(match=f"{store.keys.root}*", count=1_000)]
    pipeline = redis.pipeline(transaction=False)
    for key in keys:
        pipeline.pttl(key)
    lives = dict(zip(keys, await pipeline.execute(), strict=True))
    assert {key for key, life in lives.items() if life > 0} == {key for key in keys if b":l:" in key}
