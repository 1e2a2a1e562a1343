"""Faults of the network between workers and servers."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random

from tests.chaos.faults.fault import Broken, Proof, slowed
from tests.chaos.toxiproxy import Proxy
from tests.chaos.world import World

NARROW = 5
"""Kilobytes a second of a narrow connection: less than half of what a stage reads or writes. Toxiproxy forwards in
pieces of a tenth of a second, so that even the first one is late."""


Ways = Callable[[World], Sequence[Sequence[Proxy]]]
"""Returns, for each usual worker that needs servers of one kind, its ways to each of them."""


def draw_ways(world: World, rng: Random, ways: Ways) -> list[Proxy]:
    """Draws ways: of one worker or of all, to one server or to all."""
    workers = ways(world)
    servers = list(zip(*rng.choice(([rng.choice(workers)], workers)), strict=True))
    return [way for server in rng.choice(([rng.choice(servers)], servers)) for way in server]


def cut(ways: Ways) -> Callable[[World, Random], Broken]:
    @asynccontextmanager
    async def cut(world: World, rng: Random) -> AsyncIterator[Proof | None]:
        proxies = draw_ways(world, rng, ways)
        await asyncio.gather(*(proxy.cut() for proxy in proxies))
        yield slowed(proxies, QUESTIONS[ways])
        await asyncio.gather(*(proxy.mend() for proxy in proxies))

    return cut


def poisoned(ways: Ways, kind: str, **attributes: int) -> Callable[[World, Random], Broken]:
    @asynccontextmanager
    async def poisoned(world: World, rng: Random) -> AsyncIterator[Proof | None]:
        stream = rng.choice(("upstream", "downstream"))
        proxies = draw_ways(world, rng, ways)
        await asyncio.gather(*(proxy.poison(kind, stream, **attributes) for proxy in proxies))
        yield slowed(proxies, QUESTIONS[ways])
        await asyncio.gather(*(proxy.mend() for proxy in proxies))

    return poisoned


@asynccontextmanager
async def answers_late(world: World, _: Random) -> AsyncIterator[Proof | None]:
    proxies = [way for worker in kafka_ways(world) for way in worker]
    await asyncio.gather(*(proxy.poison("latency", latency=world.config.windows.grace + 500) for proxy in proxies))
    yield slowed(proxies, QUESTIONS[kafka_ways])
    await asyncio.gather(*(proxy.mend() for proxy in proxies))


def kafka_ways(world: World) -> Sequence[Sequence[Proxy]]:
    return [slot.kafka for slot in [*world.usual, *world.emitters]]


def redis_ways(world: World) -> Sequence[Sequence[Proxy]]:
    return [[slot.redis] for slot in world.usual]


def api_ways(world: World) -> Sequence[Sequence[Proxy]]:
    return [[world.cluster.way]]


QUESTIONS: dict[Ways, bytes] = {
    redis_ways: b"PING\r\n",
    # The length, then Metadata version 0 with correlation 0 and a long client name, for every topic: request and
    # response are so long that a narrow way delays them.
    kafka_ways: struct.pack(">ihhih1000si", 1014, 3, 0, 0, 1000, b"x" * 1000, 0),
    # The server answers that it expects TLS.
    api_ways: b"GET / HTTP/1.0\r\n\r\n",
}
"""A request that the server of a way answers without authentication."""
