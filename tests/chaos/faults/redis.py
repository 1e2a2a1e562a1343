"""Faults of Redis: killed, emptied, slow, full, failed over."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random

from redis.asyncio import Redis

from stormfold.errors import StormfoldError
from stormfold.redis.store import Store
from tests.chaos.faults.fault import HEALTHY, Proof, counts_more, known
from tests.chaos.world import World
from tests.support.servers import until

FORGIVEN = 10_000
"""Milliseconds after which every worker, even one that was frozen, knows that Redis has room again."""


@asynccontextmanager
async def redis_killed(world: World, _: Random) -> AsyncIterator[Proof | None]:
    await asyncio.to_thread(world.redis.kill)
    yield None
    await asyncio.to_thread(world.redis.start)


@asynccontextmanager
async def redis_truncated(world: World, rng: Random) -> AsyncIterator[Proof | None]:
    await asyncio.to_thread(world.redis.kill)
    # Redis 6 has a single file; later versions append to the newest of several.
    log = max(world.redis.data_dir.rglob("*.aof"), key=lambda path: (path.stat().st_mtime, "incr" in path.name))
    size = log.stat().st_size
    kept = size - min(size // 2, rng.randrange(2_000_000))
    with log.open("rb") as file:
        file.seek(kept)
        # The lost part contains a position that fold had reached.
        struck = b":pos\r\n" in file.read()
    os.truncate(log, kept)
    yield known(struck)
    await asyncio.to_thread(world.redis.start)


@asynccontextmanager
async def redis_flushed(world: World, _: Random) -> AsyncIterator[Proof | None]:
    async with Redis.from_url(world.redis.url) as redis:
        struck = await _reached(redis, world) > 0
        await redis.flushall()
    yield known(struck)


@asynccontextmanager
async def redis_paused(world: World, rng: Random) -> AsyncIterator[Proof | None]:
    async with Redis.from_url(world.redis.url) as redis:
        await redis.client_pause(rng.randint(1_000, 8_000))
    begin = time.monotonic()
    async with Redis.from_url(world.redis.url, socket_timeout=60) as redis:
        await redis.ping()
    yield known(time.monotonic() - begin > HEALTHY)


@asynccontextmanager
async def redis_asleep(world: World, rng: Random) -> AsyncIterator[Proof | None]:
    async with Redis.from_url(world.redis.url, socket_timeout=60) as redis:
        await redis.execute_command("DEBUG", "SLEEP", f"{rng.uniform(1.0, 8.0):.1f}")  # type: ignore[no-untyped-call]
    yield None


@asynccontextmanager
async def redis_full(world: World, _: Random) -> AsyncIterator[Proof | None]:
    refused = await counts_more(lambda: world.full_workers, "stormfold_redis_oom_rejections_total")
    async with Redis.from_url(world.redis.url) as redis:
        folded = await _watermark(redis, world)
        await redis.config_set("maxmemory", "1mb")
    yield refused
    async with Redis.from_url(world.redis.url) as redis:
        await redis.config_set("maxmemory", "512mb")
    world.truncated.append((folded, time.time_ns() // 1_000_000 + FORGIVEN))


async def _watermark(redis: Redis, world: World) -> int:
    """Returns the event time (ms) before which everything is folded. Without a horizon every storm would be excused."""
    store = Store(redis, world.settings.redis_prefix)

    async def horizon() -> int | None:
        version = await store.version()
        return (await store.clock(version)).horizon if version else None

    return int(await until(horizon, 60, "Redis has a horizon")) - world.config.windows.grace


async def _reached(redis: Redis, world: World) -> int:
    """Returns the sum of fold's positions in this Redis."""
    with suppress(StormfoldError):
        state = await Store(redis, world.settings.redis_prefix).load()
        return sum(position.offset for position in state.positions.values()) if state else 0
    return 0


@asynccontextmanager
async def redis_forgot_scripts(world: World, _: Random) -> AsyncIterator[Proof | None]:
    async with Redis.from_url(world.redis.url) as redis:
        struck = (await redis.info("memory"))["number_of_cached_scripts"] > 0
        await redis.script_flush()
    yield known(struck)


@asynccontextmanager
async def redis_failed_over(world: World, rng: Random) -> AsyncIterator[Proof | None]:
    old = world.redis
    await world.another_redis()
    async with Redis.from_url(world.redis.url) as redis:
        await redis.replicaof(*old.address.split(":"))
        await until(lambda: _in_step(redis), 30, "the replica is in sync")
        # Writes to the old server are lost from here on.
        await redis.replicaof("NO", "ONE")
    await asyncio.sleep(rng.uniform(0.2, 2.0))
    async with Redis.from_url(old.url) as before, Redis.from_url(world.redis.url) as after:
        struck = await _reached(before, world) > await _reached(after, world)
    await asyncio.to_thread(old.kill)
    await world.lead_to_redis()
    yield known(struck)


async def _in_step(redis: Redis) -> bool:
    return (await redis.info("replication")).get("master_link_status") == "up"
