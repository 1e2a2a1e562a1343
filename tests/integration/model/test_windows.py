"""Windows change while something else fails: every alert is counted once, and configurations do not alternate."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from redis.asyncio import Redis

from stormfold.window import Windows
from tests.integration.model.test_protocol import BY_CHANCE, USUAL, WINDOWS, Steps, histories, played
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
    """Publishes one alert of a group, now."""
    world.put(0, world.clock.now, {"labels": {"alertname": name, "pod": f"p{pod}"}})


async def turns(world: World, count: int, milliseconds: int = 1_000) -> None:
    """All members take some turns."""
    for _ in range(count):
        await turn(world, milliseconds=milliseconds)


async def short(world: World) -> None:
    """Publishes a storm of four alerts; then nothing is open."""
    for pod in range(4):
        alert(world, "Short", pod)
        await turn(world, milliseconds=500)
    await world.drain()


async def counted(world: World) -> None:
    """Closes everything, then verifies that every alert was counted once."""
    await world.drain()
    world.check_books()


async def test_redis_lost_at_the_restart_that_changes_windows(world: World) -> None:
    """Aggregates before and after C were cut under the old windows, so they are rebuilt under them."""
    for step in range(40):
        alert(world, "Long", step)
        if step in (2, 3, 4):
            alert(world, "Short", step)
        await turn(world, milliseconds=500)
    await world.wipe(Random(0))
    world.configured(LARGE)
    await counted(world)
    assert (await version(world)).windows == LARGE


async def test_redis_lost_soon_after_windows_changed(world: World) -> None:
    """The first bucket of the new windows has alerts published under the old ones: they are not counted again."""
    await short(world)
    world.configured(LARGE)
    await turns(world, 5)
    assert (await version(world)).windows == LARGE
    await world.wipe(Random(0))
    await counted(world)


async def test_redis_lost_soon_before_windows_change(world: World) -> None:
    """C of the rebuild is inside a bucket of the new windows: new alerts in it are counted."""
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


async def test_redis_goes_back_before_published_aggregates_when_windows_change(world: World) -> None:
    """What was published since is read again under its windows."""
    await turns(world, 3)
    await world.save(Random(0))
    await short(world)
    await world.restore(Random(0))
    world.configured(LARGE)
    await counted(world)
    assert (await version(world)).windows == LARGE


async def test_redis_goes_back_before_a_change_of_windows(world: World) -> None:
    """The commits have the windows that followed."""
    await turns(world, 3)
    await world.save(Random(0))
    world.configured(LARGE)
    await turns(world, 3)
    await short(world)
    await world.restore(Random(0))
    await counted(world)


async def test_redis_lost_before_positions_under_new_windows_are_committed(world: World) -> None:
    """The windows themselves are committed before anything is published under them."""
    await short(world)
    world.configured(LARGE)
    await turns(world, 1)
    await world._round(0)
    assert (await version(world)).windows == LARGE
    for minute in range(5):
        world.put(0, world.clock.now + minute * 90_000, {"labels": {"alertname": f"A{minute}"}})
    world.clock.now += 600_000
    for fold in world.folds:
        fold.stage._committed_at = world.clock.time()
    await turns(world, 2, 0)
    await world.wipe(Random(0))
    await counted(world)


@pytest.mark.parametrize("wiped", [None, 0, 1, 3, 10])
@pytest.mark.parametrize(("before", "after"), [(1_000, 30_000), (30_000, 1_000)])
async def test_alerts_during_a_change_of_grace_join_nothing_that_was_published(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, before: int, after: int, wiped: int | None
) -> None:
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


@pytest.mark.parametrize("reload", [False, True])
@pytest.mark.parametrize("seed", range(4))
async def test_windows_of_the_worker_that_loaded_them_last_apply_and_change_once(
    world: World, seed: int, reload: bool
) -> None:
    """Workers are replaced, or reload their configuration, one at a time."""
    configure = world.reloaded if reload else world.configured
    random = Random(seed)
    await turns(world, 2)
    before = (await version(world)).number
    world.clock.now += 1
    configure(LARGE, workers=(1,))
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
    configure(LARGE)
    await counted(world)
    assert ((await version(world)).number, (await version(world)).windows) == (before + 1, LARGE)


async def test_an_old_configuration_can_be_restored(world: World) -> None:
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
async def test_every_alert_is_counted_once_whatever_fails_while_windows_change(
    redis: Redis, history: Steps, windows: Windows, partitions: tuple[int, int], seed: int
) -> None:
    async with played(redis, history, windows, partitions, seed) as world:
        await counted(world)
