"""The client of Redis: whoever is to end while it asks does end."""

import asyncio

from stormfold.redis.client import connect
from stormfold.settings import Settings


async def test_cancelled_at_any_moment(topics: Settings) -> None:
    """A task that asks Redis again and again ends when it is cancelled, in whichever turn of the event loop that is."""
    async with connect(topics) as redis:

        async def ask() -> None:
            while True:
                await redis.ping()

        for turns in range(60):
            await redis.ping()
            asking = asyncio.create_task(ask())
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            _, going_on = await asyncio.wait({asking}, timeout=10)
            assert not going_on, f"after {turns} turns"
