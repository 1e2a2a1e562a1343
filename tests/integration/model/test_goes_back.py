"""Redis fails over to an older snapshot, or loses everything, between any two calls of a stage, without an error."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
from redis.asyncio import Redis

from stormfold.window import Windows
from tests.integration.model.test_protocol import RARE, USUAL, WINDOWS
from tests.integration.model.world import LosesReplies, World

CALLS = (
    "marks", "claim", "details", "complete", "load", "clock", "version", "fold", "intake_commits",
    "save_intake_commits",
)  # fmt: skip
OFTEN = 0.03
"""How likely Redis fails over before a call."""
BLOCKS, HISTORIES = 4, 15


class Failover(World):
    """A world whose Redis may be another one at each call."""

    fate: Random | None = None
    """Decides which calls of this step fail over; None: no call does."""

    def _store(self) -> LosesReplies:
        store = super()._store()
        for name in CALLS:
            setattr(store, name, self._perhaps_after_failover(getattr(store, name)))
        return store

    def _perhaps_after_failover(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def called(*args: Any, **more: Any) -> Any:
            if self.fate is not None and self.fate.random() < OFTEN:
                await self.fate.choice((self.restore, self.restore, self.restore, self.wipe))(self.fate)
            return await call(*args, **more)

        return called

    async def step(self, kind: str, seed: int) -> None:
        """One actor takes a turn, in which Redis may fail over."""
        self.fate = Random(seed + 1) if kind in ("intake", "fold", "close") else None
        await getattr(self, kind)(Random(seed))
        self.fate = None

    def check(self) -> None:
        """Checks also that a name is never published with another content."""
        super().check()
        first: dict[str, Any] = {}
        for storm in self.storm_records():
            assert first.setdefault(storm.name, storm) == storm


@pytest.mark.parametrize("block", range(BLOCKS))
async def test_a_failover_between_any_two_calls_does_not_change_the_aggregates(redis: Redis, block: int) -> None:
    """Each name is published with one content only."""
    for seed in range(block * HISTORIES, (block + 1) * HISTORIES):
        random = Random(seed)
        kinds = USUAL * random.randint(1, 3) + random.sample(RARE, random.randint(0, len(RARE))) + ["save", "save"]
        history = [(random.choice(kinds), random.randrange(2**16)) for _ in range(random.randint(80, 320))]
        with pytest.MonkeyPatch.context() as patch:
            partitions = random.randint(1, 3), random.randint(1, 3)
            world = Failover(redis, patch, random.choice(WINDOWS), *partitions, Random(seed))
            for kind, step in history:
                await world.step(kind, step)
            # Fold finds out what Redis lost, and opens a state version for the closers.
            for at in range(2):
                await world.fold(Random(at))
            await world.drain()
            await world.drain()
            world.check()
        await redis.flushall()


async def turn(world: World, milliseconds: int) -> None:
    """Time passes, then all actors take a turn, closers last."""
    world.clock.now += milliseconds
    for member in (*world.intakes, *world.folds):
        await member.poll(500)
    for at in range(2):
        await world._round(at)


@pytest.mark.parametrize("call", ["claim", "details"])
async def test_a_failover_during_a_claim_publishes_no_partial_segment(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Between a closer's calls a part of the segment disappears."""
    world = Failover(redis, monkeypatch, Windows(), 1, 1, Random(1))
    world.clock.now -= world.clock.now % world.windows.slice_length
    for step in range(6):
        if step == 3:
            await world.save(Random(0))
        labels = {"alertname": "A", "pod": f"p{step}", "namespace": "shop", "severity": "warning"}
        world.put(0, world.clock.now, {"labels": labels, "annotations": {}})
        await turn(world, 5_000)
    world.clock.now += 200_000
    for member in (*world.intakes, *world.folds):
        await member.poll(500)
    store = world.closers[0]._store
    real = getattr(store, call)
    calls = []

    async def after_failover(*args: Any, **more: Any) -> Any:
        calls.append(call)
        monkeypatch.setattr(store, call, real)
        await world.restore(Random(0))
        return await real(*args, **more)

    monkeypatch.setattr(store, call, after_failover)
    for _ in range(3):
        await world._round(0)
    assert calls
    assert world.storm_records() == []
    await world.drain()
    (storm,) = world.storm_records()
    assert storm.alert_count == 6
    world.check()
