"""Faults of producers: wrong clocks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from tests.chaos.faults.fault import Proof
from tests.chaos.world import World


@asynccontextmanager
async def clocks_skewed(world: World, rng: Random) -> AsyncIterator[Proof | None]:
    grace = world.config.windows.grace
    skew = world.producer.skew
    for partition in range(world.producer.partitions):
        skew[partition] = rng.choice((0, -grace * 3 // 4, grace * 3 // 4, -3 * grace, 10 * grace))
    producer = world.producer
    before = len(producer.tardy) + len(producer.ahead)

    async def proof() -> bool:
        return len(producer.tardy) + len(producer.ahead) > before

    yield proof
    skew.clear()
