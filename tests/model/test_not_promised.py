"""What the page of guarantees does not promise, happening: how far it goes, and what shows it."""

from random import Random
from typing import Any

import pytest
from redis.asyncio import Redis

from app.errors import Stop
from app.window import Windows
from tests.model.test_scenarios import turn
from tests.model.world import World

SMALL = Windows(gap=2_000, grace=1_000, slice=6_000)


def one(name: str) -> dict[str, Any]:
    """The alert of a group; keyed partitions are told by the fingerprint."""
    return {"labels": {"alertname": name}, "fingerprint": f"{ord(name) - ord('A'):016x}"}


@pytest.mark.parametrize("thrown", [":b:", ":g:"])
async def test_keys_thrown_away(redis: Redis, monkeypatch: pytest.MonkeyPatch, thrown: str) -> None:
    """Where Redis throws away a part of what is open nothing of it is told, and closing says why; once Redis is emptied
    all of it is counted."""
    world = World(redis, monkeypatch, SMALL, 1, 1, Random(1))
    for name in "AB":
        world.put(0, world.clock.now, one(name), one(name))
    await turn(world)
    for name in "AB":
        world.put(0, world.clock.now, one(name), one(name))
    await turn(world, milliseconds=500)
    before = len(world.storm_records())
    keys = [key async for key in redis.scan_iter(match=f"{world.settings.redis_prefix}:*{thrown}*")]
    await redis.delete(keys[0])
    for _ in range(20):
        await turn(world, milliseconds=500)
    assert len(world.storm_records()) == before == 2
    with pytest.raises(Stop, match="has lost a part of group"):
        await world.closers[0].round()
    await world.wipe(Random(0))
    await world.drain()
    world.check_books()
