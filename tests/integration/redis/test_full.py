"""A full Redis refuses to fold and writes nothing; everything that frees its memory works."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stormfold.group import GroupMeta
from stormfold.local.redis import EmbeddedRedis
from stormfold.positions import Position
from stormfold.redis.close import Completion
from stormfold.redis.errors import RedisOutOfMemory
from stormfold.redis.fold import Move
from stormfold.redis.store import Store
from tests.integration.model import plain
from tests.integration.redis.actions import (
    LIMITS,
    NOW,
    VERSION,
    WINDOWS,
    Folder,
    alert,
    contents,
    everything,
    full,
    held,
    merged,
    start,
)
from tests.support.servers import until


async def test_a_full_redis_refuses_fold_and_writes_nothing(store: Store, redis: Redis) -> None:
    """Once there is free memory, the same call folds everything."""
    await start(store)
    fold = Folder(store)
    await fold([alert(1, 3)])
    before = await everything(redis)
    batch = merged([alert(2, 3), alert(1, 14)])
    batch.marks, batch.source_positions = {(0, 0): NOW}, {(0, 0): (9, 9)}
    move = Move(0, 1, 2, NOW)
    async with full(redis):
        for _ in range(2):
            with pytest.raises(RedisOutOfMemory):
                await store.fold(VERSION, [move], batch, LIMITS)
        assert await everything(redis) == before
    await store.fold(VERSION, [move], batch, LIMITS)
    assert await contents(store) == plain.buckets([alert(1, 3), alert(2, 3), alert(1, 14)], WINDOWS)


async def test_a_batch_that_fills_redis_is_folded_and_the_next_is_refused(store: Store, redis: Redis) -> None:
    await start(store)
    fold = Folder(store)
    metas = [GroupMeta("default", {"n": str(n)}, "storms", False, 1, 1) for n in range(10_000)]
    alerts = [alert(n, 3, meta=meta) for n, meta in enumerate(metas)]
    # Enough for the arguments of the call, but not for the groups that it opens.
    await redis.config_set("maxmemory", (await store.memory()).used + 5_000_000)
    clock = await fold(alerts)
    memory = await store.memory()
    assert memory.used > memory.maximum
    assert clock.open_groups == len(metas)
    with pytest.raises(RedisOutOfMemory):
        await fold([alert(1, 14)])
    await redis.config_set("maxmemory", 0)
    assert sorted(list(detail.members) for detail in await held(store)) == [[one.fingerprint] for one in alerts]


async def test_a_full_redis_refuses_fold_but_not_close(store: Store, redis: Redis) -> None:
    """Also if it has to be sent the scripts again."""
    await start(store)
    await Folder(store)([alert(1, 3), alert(2, 60)])
    async with full(redis):
        await redis.script_flush()
        _, (mine,) = await store.claim(VERSION, NOW + 60, min_marks=0, limit=9, token="me", lease=60_000)
        assert len(await store.details(VERSION, [(mine.group, mine.buckets[0])])) == 1
        rest = Completion(mine.group, mine.buckets[:1], stay=1, due=NOW + 71)
        assert await store.complete(VERSION, "me", [rest]) == [True]
        _, (mine,) = await store.claim(VERSION, NOW + 99, min_marks=0, limit=9, token="me", lease=60_000)
        assert await store.complete(VERSION, "me", [Completion(mine.group, mine.buckets, 0, 0)]) == [True]
        assert (await store.clock(VERSION)).horizon == NOW + 99
    assert await contents(store) == {}


READS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "load": lambda store: store.load(),
    "version": lambda store: store.version(),
    "clock": lambda store: store.clock(VERSION),
    "marks": lambda store: store.marks(VERSION),
    "open_buckets": lambda store: store.open_buckets(VERSION),
    "memory": lambda store: store.memory(),
    "sweep": lambda store: store.sweep(1),
}


@pytest.mark.parametrize("read", READS)
async def test_a_full_redis_can_be_read(store: Store, redis: Redis, read: str) -> None:
    """Workers find their positions, intake and status the clock."""
    await start(store)
    await Folder(store)([alert(1, 3)])
    async with full(redis):
        await READS[read](store)


async def test_a_full_redis_can_get_a_new_state_version(store: Store, redis: Redis) -> None:
    await start(store)
    await Folder(store)([alert(1, 3)])
    async with full(redis):
        await redis.script_flush()
        assert await store.open_state_version(1, replace(VERSION, number=2), {0: Position(0, -1)})
        assert await store.sweep(2) == 6


async def test_memory_is_what_redis_reports(store: Store, redis: Redis) -> None:
    unlimited = await store.memory()
    assert (unlimited.maximum, unlimited.share, unlimited.policy, unlimited.evicted) == (0, 0.0, "noeviction", 0)
    await redis.config_set("maxmemory", 1_000_000_000)
    limited = await store.memory()
    assert limited.share == limited.used / 1_000_000_000 > 0


async def test_the_buffer_of_a_replica_that_hangs_is_not_counted_as_used_memory(tmp_path: Path) -> None:
    """Redis does not compare it with maxmemory either; the same holds for the buffer of a slow disk."""
    primary, replica = EmbeddedRedis(tmp_path / "primary"), EmbeddedRedis(tmp_path / "replica")
    await asyncio.gather(asyncio.to_thread(primary.start), asyncio.to_thread(replica.start))
    try:
        async with Redis.from_url(primary.url) as redis, Redis.from_url(replica.url) as other:
            await other.replicaof(*primary.address.split(":"))

            async def follows() -> bool:
                return bool((await other.info("replication"))["master_link_status"] == "up")

            await until(follows, what="the replica follows")
            os.kill(replica.pid, signal.SIGSTOP)
            store = Store(redis, "stormfold")
            before = (await store.memory()).used
            for _ in range(40):
                await redis.set("the-same", b"x" * 1_000_000)
            assert (await redis.info("memory"))["used_memory"] - before > 20_000_000
            assert (await store.memory()).used - before < 5_000_000
    finally:
        if replica.running:
            os.kill(replica.pid, signal.SIGCONT)
        await asyncio.to_thread(replica.stop)
        await asyncio.to_thread(primary.stop)
