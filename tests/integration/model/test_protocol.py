"""The protocol as a whole, over random histories: whatever fails, the storms are those that the keyed log decides."""

from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from stormfold.window import Windows
from tests.integration.model.world import World

WINDOWS = (
    Windows(gap=60_000, grace=10_000, slice_length=300_000),
    Windows(gap=2_000, grace=1_000, slice_length=6_000),
    Windows(gap=5_000, grace=10_000, slice_length=10_000),
)
USUAL = ["publish"] * 4 + ["wait"] * 4 + ["intake"] * 5 + ["fold"] * 5 + ["close"] * 4
RARE = ["expire", "rebalance", "die", "wipe", "save", "restore"]

Steps = list[tuple[str, int]]


@st.composite
def histories(draw: st.DrawFn, usual: list[str] = USUAL, rare: list[str] = RARE) -> Steps:
    """Who does something, and the seed of how; each history has its own kinds of problem, more or less of it."""
    kinds = usual * draw(st.integers(1, 3)) + draw(st.lists(st.sampled_from(rare), unique=True))
    return draw(st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 2**16)), min_size=80, max_size=320))


BY_CHANCE = settings(
    deadline=None,
    max_examples=80,
    print_blob=True,
    # Shrinking would take minutes: the blob brings the history back, with `Phase.shrink` added if need be.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@BY_CHANCE
@given(
    history=histories(),
    windows=st.sampled_from(WINDOWS),
    partitions=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 2**16),
)
async def test_histories(
    redis: Redis, history: Steps, windows: Windows, partitions: tuple[int, int], seed: int
) -> None:
    """Crashes between any two steps, resends, zombies, rebalances, wipes and old snapshots of Redis change nothing."""
    with pytest.MonkeyPatch.context() as patch:
        world = World(redis, patch, windows, *partitions, Random(seed))
        for kind, step in history:
            await getattr(world, kind)(Random(step))
        await world.drain()
        world.check()
        await redis.flushall()
