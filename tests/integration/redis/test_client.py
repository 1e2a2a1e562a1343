"""The client of Redis."""

import asyncio

from stormfold.redis.client import connect
from stormfold.settings import Settings


async def test_a_task_that_is_cancelled_during_a_command_ends(topics: Settings) -> None:
    """Whichever turn of the event loop the cancellation comes in."""
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
