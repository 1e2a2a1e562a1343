"""Scenarios that random histories do not reach: idle partitions, other windows, rebalances during a batch."""

import struct
from random import Random

import pytest
from redis.asyncio import Redis

from stormfold.config import Config
from stormfold.kafka.committed import CommitMetadata
from stormfold.redis.layout import ANY_NUMBER, NUMBER
from stormfold.redis.versions import StateVersion
from stormfold.window import Windows
from tests.integration.model.broker import Leaving
from tests.integration.model.world import DEFAULT, World


async def turn(world: World, members: tuple[int, ...] = (0, 1), milliseconds: int = 10_000) -> None:
    """Time passes, then these intakes, all folds and all closers take a turn."""
    world.clock.now += milliseconds
    for at in members:
        await world.intakes[at].poll(500)
    for fold in world.folds:
        await fold.poll(500)
    for at in range(2):
        await world._round(at)


async def partition_was_idle(world: World) -> None:
    """Partition 1 of `alerts` is written but not read for longer than the idle timeout, while partition 0 is read."""
    for _ in range(10):
        for partition in range(2):
            world._write(Random(partition), partition, world.clock.now)
        await turn(world)
    for step in range(120):
        for partition in range(2):
            world._write(Random(step), partition, world.clock.now)
        await turn(world, members=(0,))
    assert await horizon(world) > world.clock.now - 60_000
    world.intakes[1] = world._reborn(world.intakes[1], world._intake())


async def version(world: World) -> StateVersion:
    """The current state version."""
    found = await world._store().version()
    assert found is not None
    return found


async def horizon(world: World) -> int:
    """The current horizon (ms)."""
    found = (await world._store().clock(await version(world))).horizon
    assert found is not None
    return found


async def test_alerts_of_a_partition_that_was_idle_are_counted_as_late(world: World) -> None:
    await partition_was_idle(world)
    await world.drain()
    world.check_books()
    assert sum(storm.late for storm in world.storm_records()) > 100


@pytest.mark.parametrize("turns", [0, 1, 3, 10])
async def test_alerts_of_an_idle_partition_are_counted_once_if_redis_is_lost(world: World, turns: int) -> None:
    await partition_was_idle(world)
    for _ in range(turns):
        await turn(world)
    await world.wipe(Random(0))
    await world.drain()
    world.check_books()


async def test_alerts_after_an_idle_time_and_a_lost_redis_join_no_published_segment(world: World) -> None:
    """Though a published session continues after C."""
    await partition_was_idle(world)
    begin = (world.clock.now // DEFAULT.slice_length + 1) * DEFAULT.slice_length
    world.put(1, world.clock.now, {"labels": {"alertname": "Published"}})
    for now in range(world.clock.now + 10_000, begin + 200_000, 10_000):
        world.put(0, now, {"labels": {"alertname": "Open"}})
        if begin - 30_000 <= now <= begin + 60_000:
            world.put(0, now, {"labels": {"alertname": "Published"}})
        await turn(world, members=(0,))
    assert (await world._store().clock(await version(world))).first_open == begin
    await world.wipe(Random(0))
    await world.drain()
    world.check_books()


async def test_a_partition_that_cannot_be_read_holds_up_the_others_only_until_the_timeout(world: World) -> None:
    """Its intake is alive and polled every turn."""
    for _ in range(10):
        for partition in range(2):
            world._write(Random(partition), partition, world.clock.now)
        await turn(world)
    world.intakes[1].unreadable = {1}
    for step in range(300):
        for partition in range(2):
            world._write(Random(step), partition, world.clock.now)
        await turn(world)
    assert await horizon(world) > world.clock.now - DEFAULT.slice_length
    world.intakes[1].unreadable = set()
    await world.drain()
    world.check_books()


async def test_an_outage_of_everything_makes_no_partition_idle(world: World) -> None:
    """The aggregates are exact after an outage longer than the timeout."""
    for _ in range(5):
        for partition in range(2):
            world._write(Random(partition), partition, world.clock.now)
        await turn(world)
    for _ in range(200):
        for partition in range(2):
            world._write(Random(partition), partition, world.clock.now)
        await turn(world, members=())
    for _ in range(3):
        await turn(world, members=(0,))
    await world.drain()
    world.check()


@pytest.mark.parametrize("wider", [True, False])
async def test_aggregates_have_names_of_their_own_under_other_windows(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, wider: bool
) -> None:
    """Every alert is counted."""
    small, large = (
        Windows(gap=2_000, grace=1_000, slice_length=6_000),
        Windows(gap=60_000, grace=1_000, slice_length=120_000),
    )
    world = World(redis, monkeypatch, small if wider else large, 1, 1, Random(1))
    world.clock.now -= world.clock.now % large.slice_length
    world._write(Random(0), 0, world.clock.now)
    await world.drain()
    first = {storm.name for storm in world.storm_records()}
    config = Config(
        windows=large if wider else small, routes=world.config.routes, idle_timeout=world.config.idle_timeout
    )
    world.windows, world.config = config.windows, config
    for closer in world.closers:
        closer._config = config
    for at in range(2):
        world.intakes[at] = world._reborn(world.intakes[at], world._intake())
        world.folds[at] = world._reborn(world.folds[at], world._fold())
    await turn(world, milliseconds=1_000)
    world._write(Random(0), 0, world.clock.now)
    await world.drain()
    assert len({storm.name for storm in world.storm_records()} - first) == len(first)
    world.check_books()


async def test_a_restarted_fold_does_not_commit_an_earlier_c(world: World) -> None:
    """Though it has nothing to fold yet."""
    world._write(Random(0), 0, world.clock.now)
    await world.drain()
    commits = world.broker.commits[world.settings.consumer_group("fold")]
    before = {partition: CommitMetadata.decode(text).closed_before or 0 for partition, (_, text) in commits.items()}
    assert all(closed > 0 for closed in before.values())
    world.folds = [world._reborn(fold, world._fold()) for fold in world.folds]
    for fold in world.folds:
        await fold.poll(1)
    after = {partition: CommitMetadata.decode(text).closed_before or 0 for partition, (_, text) in commits.items()}
    assert all(after[partition] >= closed for partition, closed in before.items())


async def test_an_intake_that_loses_a_partition_during_a_delivery_marks_only_what_its_successor_keeps(
    world: World,
) -> None:
    for partition in range(2):
        world._write(Random(partition), partition, world.clock.now)
    await turn(world)
    slow = world.intakes[0]
    await slow.assign({0, 1})
    await world.intakes[1].assign(set())
    await slow.poll(500)

    async def rebalance() -> None:
        await slow.assign({0}, "with a batch in hand")
        await world.intakes[1].assign({1})

    world.clock.now += 10_000
    for partition in range(2):
        world._write(Random(partition), partition, world.clock.now)
    world.broker.interleaved = rebalance
    await slow.poll(500)
    await world.drain()
    world.check()


@pytest.mark.parametrize("leaving", ["in time", "too late", "with a batch in hand"])
async def test_an_intake_that_loses_a_partition_before_it_has_positions_commits_nothing_for_it(
    world: World, leaving: Leaving
) -> None:
    first, second = world.intakes
    for partition in range(2):
        world._write(Random(partition), partition, world.clock.now)
    await turn(world)
    await first.assign(set(), leaving)
    await second.assign({0, 1})
    await turn(world, members=(1,), milliseconds=60_000)
    for member, partitions in ((second, {1}), (first, {0}), (first, set()), (second, {0, 1})):
        await member.assign(partitions)
    await world.drain()
    world.check()


async def to_first_layout(world: World) -> None:
    """Leaves Redis as a release of the first layout would: its field for the number, and its bytes of buckets."""
    keys = world._store().keys
    await world.redis.hset(keys.state_version, ANY_NUMBER, str((await version(world)).number))
    await world.redis.hdel(keys.state_version, NUMBER)
    async for key in world.redis.scan_iter(match=f"{keys.root}*:b:*", count=1_000):
        await world.redis.delete(key)
        summary = struct.pack(">IQQIBB", 7, world.clock.now, world.clock.now, 0, 0, 0)
        await world.redis.hset(key, mapping={b"a": summary + b"critical", bytes(8): struct.pack(">IIB", 7, 1, 2)})


@pytest.mark.parametrize("times", [1, 3])
async def test_a_state_version_in_the_layout_of_another_release_is_rebuilt(world: World, times: int) -> None:
    """Also if a worker of that release still runs and opens its own state version again."""
    for number in range(times):
        for step in range(12):
            for partition in range(2):
                world._write(Random(step), partition, world.clock.now)
            await turn(world)
        before = (await version(world)).number
        await to_first_layout(world)
        assert await world._store().version() is None
        for _ in range(3):
            await turn(world)
        assert (await version(world)).number > before, number
    await world.drain()
    world.check()
    world.check_books()
