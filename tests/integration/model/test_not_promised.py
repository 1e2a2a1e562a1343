"""The cases under "Not promised" in the guarantees: how far each goes, and what shows it."""

from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from redis.asyncio import Redis

from stormfold.errors import ActionRequired, Retry
from stormfold.group import OVERFLOW_LABEL
from stormfold.stages import intake
from stormfold.window import Windows
from tests.integration.model.broker import Crash, Fault
from tests.integration.model.test_scenarios import turn
from tests.integration.model.world import DEFAULT, World

SMALL = Windows(gap=2_000, grace=1_000, slice_length=6_000)


def missing(world: World) -> int:
    """Alerts that are in no aggregate; negative if some were counted twice."""
    return world.sent - sum({storm.name: storm.alert_count for storm in world.storm_records()}.values())


@pytest.mark.parametrize("lost", [False, True])
async def test_alerts_of_a_partition_that_was_idle_are_lost_if_redis_is_lost_at_once(world: World, lost: bool) -> None:
    """They are counted as late, at a time that only Redis has."""
    world.intakes[1].unreadable = {1}
    for step in range(150):
        world.put(0, world.clock.now, {"labels": {"alertname": "Other", "pod": f"p{step}"}})
        world.put(1, world.clock.now, {"labels": {"alertname": "Held", "pod": f"p{step}"}})
        # In the end its intake stands still too, so that it does not know how far the others have come.
        await turn(world, members=(0, 1) if step < 120 else (0,))
    world.intakes[1].unreadable = set()
    await turn(world, milliseconds=0)
    held = [alert for alert in world.keyed_alerts() if alert.meta.labels["alertname"] == "Held"]
    if lost:
        await world.wipe(Random(0))
    await world.drain()
    assert len(held) == 150
    assert missing(world) == (150 if lost else 0)
    assert sum(storm.late for storm in world.storm_records()) == (0 if lost else 149)


@pytest.mark.parametrize("lost", [False, True])
async def test_alerts_may_be_missing_if_redis_is_lost_while_groups_overflow(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """Only Redis has the order in which groups were opened. The audit shows it."""
    world = World(redis, monkeypatch, SMALL, 1, 2, Random(1))
    world.config = replace(world.config, max_groups=2)
    world.configured(SMALL)

    async def seconds(count: int, *names: str) -> None:
        for _ in range(count):
            world.put(0, world.clock.now, *(one(name) for name in names))
            await turn(world, milliseconds=1_000)

    # A and C are in the partition that is folded first, so B and D overflow, into what begins with B.
    await seconds(4, "A", "B", "C")
    await seconds(7, "A", "B", "C", "D")
    if lost:
        await world.wipe(Random(0))
        world.folds.reverse()
    await seconds(5, "A", "B", "C", "D")
    await world.drain()
    overflow = [storm for storm in world.storm_records() if OVERFLOW_LABEL in storm.group_labels]
    assert sum(storm.alert_count for storm in overflow) > 20
    # D alone is cut later than in what began with B: of what was closed with that it lacks a slice.
    others = {storm.group_labels["alertname"] for storm in world.storm_records() if storm not in overflow}
    assert (others, missing(world)) == (({"A", "B", "C", "D"}, 6) if lost else ({"A", "C"}, 0))


@pytest.mark.parametrize("killed", [False, True])
async def test_alerts_may_be_missing_or_doubled_if_intake_is_killed_and_starts_with_other_default_labels(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """What it sent and did not commit is sent again to other partitions. A reload waits for the commit."""
    world = World(redis, monkeypatch, SMALL, 1, 2, Random(1))
    monkeypatch.setattr(intake, "MAX_ALERTS_PER_CHUNK", 1_000)
    for _ in range(3):
        await turn(world, milliseconds=500)
    for pod in range(20):
        world.put(0, world.clock.now, {"labels": {"alertname": "A", "pod": f"p{pod}"}})
    world.broker.fault = Fault(0, Random(1), Crash() if killed else Retry("not delivered"))
    with suppress(Crash):
        await world.intakes[0].poll(500)
    assert 0 < len(world.keyed_alerts()) < 20
    labels = {"zone": "a"}
    if killed:
        world.config = replace(world.config, default_labels=labels)
        world.configured(SMALL)
    else:
        world.reloaded(SMALL, default_labels=labels)
    world.put(0, world.clock.now, {"labels": {"alertname": "A", "pod": "new"}})
    await world.drain()
    assert (missing(world) != 0) == killed
    newest = world.intakes[0].stage._loaded.config
    assert newest.default_labels == labels


def one(name: str) -> dict[str, Any]:
    """The alert of a group; its fingerprint decides its keyed partition."""
    return {"labels": {"alertname": name}, "fingerprint": f"{ord(name) - ord('A'):016x}"}


@pytest.mark.parametrize(("windows", "late"), [(SMALL, 3), (DEFAULT, 0)])
async def test_the_first_alerts_of_a_new_partition_may_be_late(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, windows: Windows, late: int
) -> None:
    """Until workers know of it the horizon does not wait for it; that matters only if the grace is short."""
    world = World(redis, monkeypatch, windows, 1, 1, Random(1))
    await turn(world, milliseconds=1_000)
    for second in range(8):
        world.put(0, world.clock.now, one("A"))
        if second in (1, 2, 3):
            world.put(1, world.clock.now, one("B"))
        await turn(world, milliseconds=1_000)
    world.broker.partitions[world.settings.alerts_topic] = 2
    await world.intakes[1].assign({1})
    await world.drain()
    world.check_books()
    assert {storm.group_labels["alertname"]: storm.late for storm in world.storm_records()} == {"A": 0, "B": late}


async def test_a_truncated_aggregate_may_come_again_with_more_detail(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If Redis is lost before a commit has that it was published: same name, same count."""
    world = World(redis, monkeypatch, SMALL, 1, 1, Random(1))
    monitors = [fold.stage._monitor for fold in world.folds]
    for monitor in monitors:
        monitor.limits = replace(monitor.limits, track_new=False)
    for pod in range(5):
        world.put(0, world.clock.now, {"labels": {"alertname": "A", "pod": f"p{pod}"}})
    while not world.storm_records():
        await turn(world, milliseconds=500)
    await world.wipe(Random(0))
    for monitor in monitors:
        monitor.limits = replace(monitor.limits, track_new=True)
    await world.drain()
    world.check_books()
    less, more = world.storm_records()
    assert less.name == more.name and less.aggregate_class == more.aggregate_class == "Storm"
    assert (less.alert_count, less.distinct, less.truncated) == (5, 0, True)
    assert (more.alert_count, more.distinct, more.truncated) == (5, 5, False)


@pytest.mark.parametrize("thrown", [":b:", ":g:"])
async def test_evicted_keys_stop_closing_until_redis_is_emptied(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, thrown: str
) -> None:
    """Nothing of the rest is published, and the error has the reason; then all of it is counted."""
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
    with pytest.raises(ActionRequired, match="has lost a part of group"):
        await world.closers[0].run_once()
    await world.wipe(Random(0))
    await world.drain()
    world.check_books()
