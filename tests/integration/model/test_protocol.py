"""The whole protocol, over random histories: whatever fails, the aggregates follow from the keyed topic alone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
    """Steps, each with a seed; every history has its own kinds of faults, and its own share of them."""
    kinds = usual * draw(st.integers(1, 3)) + draw(st.lists(st.sampled_from(rare), unique=True))
    return draw(st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 2**16)), min_size=80, max_size=320))


@asynccontextmanager
async def played(
    redis: Redis, history: Steps, windows: Windows, partitions: tuple[int, int], seed: int
) -> AsyncIterator[World]:
    """A world after all steps of a history. Redis is empty afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        world = World(redis, patch, windows, *partitions, Random(seed))
        for kind, step in history:
            await getattr(world, kind)(Random(step))
        yield world
        await redis.flushall()


BY_CHANCE = settings(
    deadline=None,
    max_examples=80,
    print_blob=True,
    # Shrinking would take minutes: the blob reproduces the history, with `Phase.shrink` added if needed.
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
async def test_faults_at_any_step_do_not_change_the_aggregates(
    redis: Redis, history: Steps, windows: Windows, partitions: tuple[int, int], seed: int
) -> None:
    """Crashes between any two steps, calls sent again, zombies, rebalances, losses and old snapshots of Redis."""
    async with played(redis, history, windows, partitions, seed) as world:
        await world.drain()
        world.check()
