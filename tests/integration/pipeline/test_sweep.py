"""The keys of an old state version are deleted even if the first attempt fails."""

import pytest
from redis.asyncio import Redis

from stormfold.config import Config, LoadedConfig
from stormfold.errors import Retry
from stormfold.kafka.reader import open_consumer
from stormfold.positions import Position
from stormfold.redis.layout import ANY_NUMBER, NUMBER, SWEPT
from stormfold.redis.store import Store
from stormfold.redis.versions import StateVersion
from stormfold.settings import Settings
from stormfold.stages.state_version import ensure_state_version
from tests.support.servers import PARTITIONS


class Interrupted(Store):
    """A store that is unavailable when it begins its first sweep."""

    sweeps = 0

    async def sweep(self, current: int) -> int:
        self.sweeps += 1
        if self.sweeps == 1:
            raise Retry("Redis is not available")
        return await super().sweep(current)


async def test_a_sweep_that_failed_is_repeated_where_the_state_version_is_continued(
    topics: Settings, redis: Redis
) -> None:
    """Once it is completed, nothing is swept again, by no process."""
    store, loaded = Interrupted(redis, topics.redis_prefix), LoadedConfig.now(Config())
    old = StateVersion(1, loaded.config.windows, PARTITIONS, None)
    assert await store.open_state_version(None, old, {p: Position(0) for p in range(PARTITIONS)})
    # A worker of another release wrote it: it cannot be continued.
    await redis.hset(store.keys.state_version, ANY_NUMBER, "1")
    await redis.hdel(store.keys.state_version, NUMBER)

    async def left() -> list[bytes]:
        return [key async for key in redis.scan_iter(match=f"{store.keys.of(1).base}*")]

    async with open_consumer(topics) as consumer:
        with pytest.raises(Retry):
            await ensure_state_version(store, consumer, topics, loaded)
        assert await left()
        opened = [(await ensure_state_version(store, consumer, topics, loaded)).version.number for _ in range(3)]
        assert opened == [3, 3, 3] and store.sweeps == 2
        other = Interrupted(redis, topics.redis_prefix)
        await ensure_state_version(other, consumer, topics, loaded)
        assert other.sweeps == 0
        # A full Redis does not take the field. Who has swept does not do so at each assignment then.
        await redis.hdel(store.keys.state_version, SWEPT)
        await ensure_state_version(store, consumer, topics, loaded)
        assert store.sweeps == 2
    assert not await left()
