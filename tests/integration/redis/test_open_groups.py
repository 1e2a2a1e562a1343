"""The largest open groups are found at a bounded cost, however many are open."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from stormfold.group import GroupMeta
from stormfold.local.redis import EmbeddedRedis
from stormfold.redis.close import Completion
from stormfold.redis.errors import StaleStateVersion
from stormfold.redis.layout import VersionKeys
from stormfold.redis.open_groups import CALLS_PER_LOOK, GROUPS_PER_CALL, OpenGroup, OpenGroups, OpenSegments, TopGroups
from stormfold.redis.store import Store
from stormfold.redis.versions import StateVersion
from stormfold.storm import Aggregate, fold_segment
from stormfold.window import Rebuild, segments
from tests.integration.redis.actions import (
    GROUP,
    LIMITS,
    NOW,
    OTHER,
    VERSION,
    Folder,
    alert,
    everything,
    full,
    held,
    start,
)


def group(number: int) -> GroupMeta:
    """One of many."""
    return GroupMeta("default", {"alertname": f"A{number:03}"}, "storms", False, 3, 2)


def sizes(found: Sequence[OpenGroup]) -> dict[str, int]:
    return {one.meta.labels["alertname"]: one.alerts for one in found}


async def test_without_open_groups_there_are_no_largest(store: Store) -> None:
    await start(store)
    assert await OpenGroups(store, 5).look(VERSION) == TopGroups(0, 0, ())


async def test_counts_are_over_all_buckets_of_a_group(store: Store, redis: Redis) -> None:
    await start(store)
    alerts = [
        alert(1, 3, resource="a", rank=3), alert(1, 14, resource="a", rank=1), alert(2, 15, resource="b", rank=2),
        alert(3, 26, rank=4),
    ]  # fmt: skip
    await Folder(store)(alerts)
    before = await everything(redis)
    assert await OpenGroups(store, 5).look(VERSION) == TopGroups(
        1, 1, (OpenGroup(GROUP, "error", 4, 3, 2, True, NOW + 3, NOW + 26),)
    )
    assert await everything(redis) == before


async def test_the_largest_groups_come_first(store: Store) -> None:
    await start(store)
    await Folder(store)([alert(n, n, meta=group(number)) for number in range(9) for n in range(number + 1)])
    found = await OpenGroups(store, 3).look(VERSION)
    assert (found.open, found.seen) == (9, 9)
    assert list(sizes(found.groups).items()) == [("A008", 9), ("A007", 8), ("A006", 7)]


async def test_several_looks_see_all_open_groups_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large groups stay in view while they are open."""
    monkeypatch.setattr("stormfold.redis.open_groups.GROUPS_PER_CALL", 3)
    monkeypatch.setattr("stormfold.redis.open_groups.CALLS_PER_LOOK", 2)
    await start(store)
    fold = Folder(store)
    # The oldest groups are the smallest, so the largest are found last.
    await fold([alert(n, number * 10 + n % 10, meta=group(number)) for number in range(20) for n in range(number + 1)])
    looks = OpenGroups(store, 2)
    seen = []
    for _ in range(4):
        found = await looks.look(VERSION)
        seen.append((found.seen, *sizes(found.groups)))
    assert seen == [(6, "A005", "A004"), (12, "A011", "A010"), (18, "A017", "A016"), (20, "A019", "A018")]
    await fold([alert(n, 170, meta=group(17)) for n in range(90)])
    assert sizes((await looks.look(VERSION)).groups) == {"A019": 20, "A018": 19}
    for _ in range(3):
        found = await looks.look(VERSION)
    assert sizes(found.groups) == {"A017": 108, "A019": 20} and found.seen == 20
    _, claimed = await store.claim(VERSION, NOW + 10_000, min_marks=0, limit=1_000, token="me", lease=60_000)
    (largest,) = [one for one in claimed if one.meta == group(17)]
    assert await store.complete(VERSION, "me", [Completion(largest.group, largest.buckets, stay=0, due=0)]) == [True]
    for _ in range(4):
        found = await looks.look(VERSION)
    assert sizes(found.groups) == {"A019": 20, "A018": 19} and found.open == 19


async def test_counts_are_lower_bounds_where_members_are_too_many_to_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stormfold.redis.open_groups.MAX_MEMBERS", 60)
    await start(store)
    large = [alert(n, n % 10, resource=f"r{n}") for n in range(100)]
    small = [alert(n, n % 10, resource=f"r{n % 2}", meta=OTHER) for n in range(5)]
    await Folder(store)([*large, *small])
    first, second = (await OpenGroups(store, 5).look(VERSION)).groups
    assert (first.alerts, first.distinct, first.resources, first.exact) == (100, 100, 0, False)
    assert (second.alerts, second.distinct, second.resources, second.exact) == (5, 5, 2, True)


async def test_counts_are_lower_bounds_where_fingerprints_are_not_members(store: Store) -> None:
    await start(store)
    await Folder(store)([alert(n, 3) for n in range(9)], replace(LIMITS, max_fingerprints=4))
    (only,) = (await OpenGroups(store, 5).look(VERSION)).groups
    assert (only.alerts, only.distinct, only.exact) == (9, 4, False)


async def test_a_look_costs_the_same_with_ten_times_the_groups(store: Store, redis: Redis) -> None:
    await start(store)
    fold = Folder(store)
    open_groups = 0
    costs = []
    for count in (GROUPS_PER_CALL * CALLS_PER_LOOK, 10_000):
        while open_groups < count:
            await fold([alert(1, 3, meta=group(open_groups + n)) for n in range(500)])
            open_groups += 500
        looks = OpenGroups(store, 20)
        await redis.config_resetstat()
        found = await looks.look(VERSION)
        stats = await redis.info("commandstats")
        costs.append(Counter({name: value["calls"] for name, value in stats.items()}).total())
        assert found.open == count
    assert costs[1] <= costs[0] * 1.05


async def test_looks_begin_again_with_a_new_state_version(store: Store) -> None:
    """Groups of another state version are never returned."""
    await start(store)
    await Folder(store)([alert(1, 3)])
    looks = OpenGroups(store, 5)
    assert len((await looks.look(VERSION)).groups) == 1
    following = replace(VERSION, number=2)
    await start(store, following, 1)
    with pytest.raises(StaleStateVersion):
        await looks.look(VERSION)
    assert await looks.look(following) == TopGroups(0, 0, ())


async def test_a_full_redis_shows_its_largest_groups(store: Store, redis: Redis) -> None:
    await start(store)
    await Folder(store)([alert(1, 3)])
    async with full(redis):
        await redis.script_flush()
        assert (await OpenGroups(store, 5).look(VERSION)).open == 1


async def closed(store: Store, version: StateVersion) -> list[Aggregate]:
    """The open segments as close would fold them, whether they are due or not."""
    result = []
    for one in await store.open_buckets(version):
        for segment in segments(one.buckets, version.windows, version.rebuild):
            details = await store.details(version, [(one.group, bucket) for bucket in segment.buckets])
            result.append(fold_segment(segment, details, version.windows.gap, 50))
    return sorted(result, key=lambda one: one.name)


async def test_open_segments_are_the_aggregates_of_what_has_come_so_far(store: Store, redis: Redis) -> None:
    await start(store)
    alerts = [alert(n, n, resource=f"r{n}", rank=n % 3) for n in range(9)]
    later = [alert(n, 75 + n, resource=f"r{n}") for n in range(4)]
    await Folder(store)([*alerts, *later, *(alert(n, 5, meta=OTHER) for n in range(3))])
    before = await everything(redis)
    watermark, found = await OpenSegments(store, 5, 50).look(VERSION)
    assert sorted(found, key=lambda one: one.name) == await closed(store, VERSION)
    assert len(found) == 3 and watermark is None
    assert await everything(redis) == before


class Changing:
    """A Redis in which a bucket changes between the two reads of it."""

    def __init__(self, redis: Redis, server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
        self._redis = redis
        self._server = server
        self._patch = monkeypatch

    async def state(self) -> dict[bytes, bytes | None]:
        """Everything, to restore it."""
        return {key: await self._redis.dump(key) async for key in self._redis.scan_iter()}

    def restore(self, state: Mapping[bytes, bytes | None]) -> None:
        with SyncRedis.from_url(self._server.url) as client:
            client.flushdb()
            for key, value in state.items():
                client.restore(key, 0, value or b"")

    def becomes(self, state: Mapping[bytes, bytes | None]) -> None:
        """From now on, what is read of a bucket after its first hash is of this state."""
        part_keys = VersionKeys.part_keys

        def late(*arguments: Any) -> list[str]:
            self.restore(state)
            return part_keys(*arguments)

        self._patch.setattr(VersionKeys, "part_keys", late)


async def test_buckets_that_grow_while_they_are_read_have_what_they_had(
    store: Store, redis: Redis, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alerts that come between the two reads of a bucket bring a prefix of resources that is not read."""
    await start(store)
    folder, changing = Folder(store), Changing(redis, redis_server, monkeypatch)
    await folder([alert(n, 1, resource=f"{n:016}") for n in range(200)])
    before, details = await changing.state(), await held(store)
    await folder([alert(n, 2, resource=f"payments-{n}") for n in range(200, 240)])
    changing.becomes(await changing.state())
    changing.restore(before)
    _, (found,) = await OpenSegments(store, 5, 50).look(VERSION)
    assert 200 <= found.distinct <= 240
    changing.restore(before)
    (group,) = (await OpenGroups(store, 5).look(VERSION)).groups
    assert 200 <= group.distinct <= 240
    changing.restore(before)
    assert await held(store) == details


async def test_resources_of_a_bucket_that_splits_while_it_is_read_are_a_lower_bound(
    store: Store, redis: Redis, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its prefixes and half of its members are then in hashes that are not read."""
    await start(store)
    folder, changing = Folder(store), Changing(redis, redis_server, monkeypatch)
    await folder([alert(n, 1, resource=f"payments-{n}") for n in range(100)])
    before = await changing.state()
    await folder([alert(n, 2, resource=f"payments-{n}") for n in range(100, 200)])
    changing.becomes(await changing.state())
    changing.restore(before)
    (group,) = (await OpenGroups(store, 5).look(VERSION)).groups
    assert group.distinct == 100 and group.resources < 100 and not group.exact


async def test_the_segments_with_the_most_distinct_alerts_are_found_first(store: Store) -> None:
    """Not those that are repeated most."""
    await start(store)
    repeated = [alert(1, 3, meta=group(0)) for _ in range(50)]
    await Folder(store)([*repeated, *(alert(n, 3, meta=group(1)) for n in range(4))])
    _, (found,) = await OpenSegments(store, 1, 50).look(VERSION)
    assert (found.pattern, found.distinct, found.alert_count) == ("A001", 4, 4)


async def test_segments_that_are_not_read_have_all_alerts_and_no_distinct_ones(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stormfold.redis.open_groups.MAX_MEMBERS", 60)
    await start(store)
    await Folder(store)([alert(n, n % 10, resource=f"r{n}") for n in range(100)])
    _, (found,) = await OpenSegments(store, 5, 50).look(VERSION)
    assert (found.alert_count, found.distinct, found.aggregate_class, found.truncated) == (100, 0, "Isolated", True)


async def test_segments_that_were_published_before_a_rebuild_are_left_out(store: Store) -> None:
    version = replace(VERSION, rebuild=Rebuild(NOW - 1_000, NOW + 50))
    await start(store, version)
    await Folder(store, version)([alert(1, 3), alert(2, 75)])
    _, (found,) = await OpenSegments(store, 5, 50).look(version)
    assert found.first_seen == NOW + 75
