"""The faults: each breaks something real, and on leaving puts it right again."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random
from typing import NamedTuple

from redis.asyncio import Redis

from tests.chaos.world import World

Broken = AbstractAsyncContextManager[None]


class Fault(NamedTuple):
    """Something that goes wrong."""

    part: str
    """What it is about. Two faults at once are about different parts."""
    what: str
    """As the table says it."""
    seconds: tuple[float, float]
    """How long it lasts, from and to."""
    act: Callable[[World, Random], Broken]
    """Entered to break, left to mend."""


@asynccontextmanager
async def worker_killed(world: World, rng: Random) -> AsyncIterator[None]:
    slot = rng.choice(world.staffed)
    await world.end(slot, signal.SIGKILL)
    yield
    world.start(slot)


@asynccontextmanager
async def redis_flushed(world: World, _: Random) -> AsyncIterator[None]:
    async with Redis.from_url(world.redis.url) as redis:
        await redis.flushall()
    yield


@asynccontextmanager
async def kafka_killed(world: World, _: Random) -> AsyncIterator[None]:
    await asyncio.to_thread(world.kafka.kill)
    yield
    await asyncio.to_thread(world.kafka.start)


FAULTS = {
    "worker-killed": Fault("workers", "kill -9 of a worker, a new one later", (0, 3), worker_killed),
    "redis-flushed": Fault("redis", "FLUSHALL", (0, 0), redis_flushed),
    "kafka-killed": Fault("kafka", "kill -9 of the broker, started again", (0, 3), kafka_killed),
}
