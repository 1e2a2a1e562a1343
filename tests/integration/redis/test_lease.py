"""The lease of correlation: one holder at a time, who knows whether it had the lease all the time."""

from redis.asyncio import Redis

from stormfold.redis.lease import LeaseReply
from stormfold.redis.store import Store
from tests.support.servers import until

LONG = 60_000


async def test_one_worker_has_the_lease_until_it_ends(store: Store, redis: Redis) -> None:
    assert await store.hold_correlation("a", LONG) is LeaseReply.TAKEN
    assert await store.hold_correlation("b", LONG) is LeaseReply.OTHERS
    assert await store.hold_correlation("a", LONG) is LeaseReply.EXTENDED
    assert await store.hold_correlation("a", 1) is LeaseReply.EXTENDED

    async def taken() -> bool:
        return await store.hold_correlation("b", LONG) is LeaseReply.TAKEN

    await until(taken, what="the lease of another worker ends")
    assert await store.hold_correlation("a", LONG) is LeaseReply.OTHERS
    await redis.delete(store.keys.correlation)
    assert await store.hold_correlation("b", LONG) is LeaseReply.TAKEN
    await redis.delete(store.keys.correlation)


async def test_a_full_redis_refuses_no_lease(store: Store, redis: Redis) -> None:
    await redis.config_set("maxmemory", 1)
    assert await store.hold_correlation("a", LONG) is LeaseReply.TAKEN
    assert await store.hold_correlation("a", LONG) is LeaseReply.EXTENDED
    await redis.config_set("maxmemory", 0)
    await redis.delete(store.keys.correlation)
