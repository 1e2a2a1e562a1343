"""Other windows while something else goes wrong: every alert is counted once, and configurations do not take turns."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from redis.asyncio import Redis

from stormfold.window import Windows
from tests.integration.model.test_protocol import BY_CHANCE, USUAL, WINDOWS, Steps, histories
from tests.integration.model.test_scenarios import turn, version
from tests.integration.model.world import OTHERS, World

SMALL, LARGE = OTHERS


@pytest.fixture
async def world(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> World:
    """One partition each, small windows, at the beginning of a large slice."""
    world = World(redis, monkeypatch, SMALL, 1, 1, Random(1))
    world.clock.now -= world.clock.now % LARGE.slice_length
    return world


def alert(world: World, name: str, pod: int = 0) -> None:
    """One alert of a group, now."""
    world.put(0, world.clock.now, {"labels": {"alertname": name, "pod": f"p{pod}"}})


async def turns(world: World, count: int, milliseconds: int = 1_000) -> None:
    """Everybody has some turns."""
    for _ in range(count):
        await turn(world, milliseconds=milliseconds)


async def short(world: World) -> None:
    """A storm of four alerts is published, and nothing is open."""
    for pod in range(4):
        alert(world, "Short", pod)
        await turn(world, milliseconds=500)
    await world.drain()


async def counted(world: World) -> None:
    """The books balance once all is closed."""
    await world.drain()
    world.check_books()


async def test_redis_lost_at_the_same_restart(world: World) -> None:
    """What was published before C and after it was cut under the old windows, so it is rebuilt under them."""
    for step in range(40):
        alert(world, "Long", step)
        if step in (2, 3, 4):
            alert(world, "Short", step)
        await turn(world, milliseconds=500)
    await world.wipe(Random(0))
    world.configured(LARGE)
    await counted(world)
    assert (await version(world)).windows == LARGE


async def test_redis_lost_soon_after(world: World) -> None:
    """The first bucket of the new windows has what was published under the old ones: that is not counted again."""
    await short(world)
    world.configured(LARGE)
    await turns(world, 5)
    assert (await version(world)).windows == LARGE
    await world.wipe(Random(0))
    await counted(world)


async def test_redis_lost_soon_before(world: World) -> None:
    """C of a rebuild lies inside a bucket of the new windows: what is new in that is counted all the same."""
    await short(world)
    await turns(world, 1)
    await world.wipe(Random(0))
    await turns(world, 4)
    world.configured(LARGE)
    await turns(world, 4)
    assert (await version(world)).windows == LARGE
    alert(world, "Next")
    await turns(world, 1)
    await counted(world)


async def test_redis_back_before_what_was_published(world: World) -> None:
    """Redis comes back as it was while nothing was open: what was published since is read again under its windows."""
    await turns(world, 3)
    await world.save(Random(0))
    await short(world)
    await world.restore(Random(0))
    world.configured(LARGE)
    await counted(world)
    assert (await version(world)).windows == LARGE


async def test_redis_back_before_the_change(world: World) -> None:
    """Redis comes back with the old windows, after storms of the new ones: it is known by the commits."""
    await turns(world, 3)
    await world.save(Random(0))
    world.configured(LARGE)
    await turns(world, 3)
    await short(world)
    await world.restore(Random(0))
    await counted(world)


async def test_redis_lost_before_anything_is_committed(world: World) -> None:
    """What was caught up with at once, and published, was committed before as being of the new windows."""
    await short(world)
    world.configured(LARGE)
    await turns(world, 1)
    await world._round(0)
    assert (await version(world)).windows == LARGE
    for minute in range(5):
        world.put(0, world.clock.now + minute * 90_000, {"labels": {"alertname": f"A{minute}"}})
    world.clock.now += 600_000
    for fold in world.folds:
        fold.stage._committed = world.clock.time()
    await turns(world, 2, 0)
    await world.wipe(Random(0))
    await counted(world)


@pytest.mark.parametrize("wiped", [None, 0, 1, 3, 10])
@pytest.mark.parametrize(("before", "after"), [(1_000, 30_000), (30_000, 1_000)])
async def test_another_grace(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, before: int, after: int, wiped: int | None
) -> None:
    """Alerts that are on their way when the grace changes, or come late, join nothing that was published."""
    world = World(redis, monkeypatch, Windows(gap=2_000, grace=before, slice_length=6_000), 1, 1, Random(1))
    await short(world)
    world.configured(Windows(gap=2_000, grace=after, slice_length=6_000))
    for step in range(40):
        now = world.clock.now
        for at in range(2):
            await world.intakes[at].poll(500)
        for late in (0, 900, 2_500, 20_000, 29_000):
            world.put(0, now - late, {"labels": {"alertname": "Short", "pod": f"p{step}"}})
        for at in range(2):
            await world._round(at)
        if step == wiped:
            await world.wipe(Random(0))
        for fold in world.folds:
            await fold.poll(500)
        world.clock.now += 1_000
    await counted(world)


@pytest.mark.parametrize("seed", range(4))
async def test_rolling_change(world: World, seed: int) -> None:
    """Workers are replaced one at a time: the windows of the one that was started last hold, and change once."""
    random = Random(seed)
    await turns(world, 2)
    before = (await version(world)).number
    world.clock.now += 1
    world.configured(LARGE, workers=(1,))
    for _ in range(200):
        if random.random() < 0.15:
            alert(world, f"G{random.randrange(5)}", random.randrange(9))
        if random.random() < 0.05:
            members = random.choice((world.intakes, world.folds))
            owner = random.randrange(2)
            await members[1 - owner].assign(set())
            await members[owner].assign({0})
        await turn(world, milliseconds=500)
    assert (await version(world)).number <= before + 1
    world.configured(LARGE)
    await counted(world)
    assert ((await version(world)).number, (await version(world)).windows) == (before + 1, LARGE)


async def test_put_back(world: World) -> None:
    """The old configuration can be put back, once or more."""
    for windows in (LARGE, SMALL, LARGE):
        world.clock.now += 1
        world.configured(windows)
        await short(world)
        assert (await version(world)).windows == windows
    world.check_books()


@hypothesis(BY_CHANCE, max_examples=60)
@given(
    history=histories([*USUAL, *["wait"] * 4, "reconfigure"]),
    windows=st.sampled_from(WINDOWS),
    partitions=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 2**16),
)
async def test_histories(
    redis: Redis, history: Steps, windows: Windows, partitions: tuple[int, int], seed: int
) -> None:
    """Workers are started with other windows whatever else goes wrong: every alert is counted once."""
    with pytest.MonkeyPatch.context() as patch:
        world = World(redis, patch, windows, *partitions, Random(seed))
        for kind, step in history:
            await getattr(world, kind)(Random(step))
        await counted(world)
        await redis.flushall()
