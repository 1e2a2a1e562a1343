"""open_state.lua and change_windows.lua: the first caller wins; keys of older state versions are deleted."""

import asyncio
from dataclasses import replace
from typing import ClassVar

import pytest
from msgspec import structs
from redis.asyncio import Redis

from stormfold.positions import Position
from stormfold.redis.clock import MarksSnapshot
from stormfold.redis.errors import StaleStateVersion
from stormfold.redis.fold import Move
from stormfold.redis.store import Store
from stormfold.redis.versions import PendingWindows, StateVersion
from stormfold.window import Rebuild, Windows
from tests.integration.model import plain
from tests.integration.redis.actions import (
    LIMITS,
    NOW,
    VERSION,
    WINDOWS,
    Folder,
    alert,
    contents,
    everything,
    merged,
    start,
)


async def test_an_empty_redis_has_no_state_version(store: Store) -> None:
    assert await store.load() is None
    assert await store.version() is None


@pytest.mark.parametrize("rebuild", [None, Rebuild(NOW - 90, NOW), Rebuild(-90, 0)], ids=str)
@pytest.mark.parametrize("since", [None, NOW])
async def test_a_state_version_is_read_as_it_was_opened(
    store: Store, rebuild: Rebuild | None, since: int | None
) -> None:
    version = StateVersion(7, Windows(gap=60_000, grace=10_000, slice_length=300_000), 3, rebuild, since, NOW)
    starts = {0: Position(12, NOW), 1: Position(0, -1), 2: Position(2**40, NOW + 1)}
    assert await store.open_state_version(None, version, starts)
    state = await store.load()
    assert state is not None
    assert (state.version, state.positions, state.source_positions) == (version, starts, {})
    assert await store.version() == version


async def test_of_many_workers_one_opens_the_state_version(store: Store, redis: Redis) -> None:
    """The others change nothing."""
    versions = [StateVersion(1, structs.replace(WINDOWS, grace=n), 1, None) for n in range(20)]
    opened = await asyncio.gather(
        *(store.open_state_version(None, version, {0: Position(n, -1)}) for n, version in enumerate(versions))
    )
    assert opened.count(True) == 1
    winner = opened.index(True)
    state = await store.load()
    assert state is not None
    assert (state.version, state.positions[0].offset) == (versions[winner], winner)
    before = await everything(redis)
    assert not await store.open_state_version(None, VERSION, {})
    assert not await store.open_state_version(2, replace(VERSION, number=3), {})
    assert await everything(redis) == before


async def test_a_new_state_version_begins_empty(store: Store) -> None:
    """Workers of the old one are refused."""
    await start(store)
    fold = Folder(store)
    await fold([alert(1, 3)])
    await store.claim(VERSION, NOW, min_marks=0, limit=0, token="t", lease=1)
    new = replace(VERSION, number=2, rebuild=Rebuild.of(NOW, WINDOWS))
    assert await store.open_state_version(1, new, {0: Position(5, -1)})
    state = await store.load()
    assert state is not None
    assert (state.version, state.positions, state.source_positions) == (new, {0: Position(5, -1)}, {})
    assert (await store.marks(new), await contents(store, new)) == (MarksSnapshot({}, 0, 0), {})
    with pytest.raises(StaleStateVersion):
        await fold([alert(2, 3)])
    with pytest.raises(StaleStateVersion):
        await store.claim(VERSION, NOW, min_marks=0, limit=1, token="t", lease=1)


async def test_positions_left_by_a_lost_version_of_the_same_number_are_deleted(store: Store) -> None:
    await start(store)
    await Folder(store)([alert(1, 3)])
    await store.redis.delete(store.keys.state_version)
    await start(store, replace(VERSION, partitions=1))
    state = await store.load()
    assert state is not None
    assert state.positions == {0: Position(0, -1)}


class TestOtherWindows:
    """Windows change once nothing is open and everything is folded that was there at the request."""

    WINDOWS = Windows(gap=20, grace=5, slice_length=60)
    ENDS: ClassVar = {0: 4, 1: 2}
    NEW = replace(VERSION, number=2, windows=WINDOWS, requested_at=NOW)

    async def request(self, store: Store, windows: Windows = WINDOWS) -> None:
        """Requests windows in a state version that has been read to the ends."""
        await start(store)
        await store.fold(VERSION, [Move(0, 0, 4, NOW)], merged([]), LIMITS)
        batch = merged([])
        batch.marks, batch.alerts_partitions, batch.source_positions = {(0, 0): NOW}, 2, {(0, 1): (3, 2)}
        await store.fold(VERSION, [Move(1, 0, 2, NOW)], batch, LIMITS)
        await store.claim(VERSION, NOW, min_marks=0, limit=1, token="t", lease=1)
        await store.request_windows(VERSION, PendingWindows(windows, NOW, self.ENDS))
        assert await store.pending_windows(VERSION) == PendingWindows(windows, NOW, self.ENDS)

    @pytest.mark.parametrize("grace", [0, 5, 50])
    async def test_positions_and_marks_are_kept_when_windows_change(self, store: Store, grace: int) -> None:
        """The watermark stays, and no alert before it is counted."""
        windows = structs.replace(self.WINDOWS, grace=grace)
        await self.request(store, windows)
        assert await store.change_windows(VERSION, {})
        state = await store.load()
        assert state is not None
        watermark = NOW - VERSION.windows.grace
        new = replace(self.NEW, windows=windows, windows_since=watermark)
        assert (state.version, state.positions) == (new, {0: Position(4, NOW), 1: Position(2, NOW)})
        assert state.source_positions == {(0, 1): (3, 2)}
        # An alert sent under the larger grace may be that much before its mark.
        assert await store.marks(new) == MarksSnapshot({(0, 0): min(NOW, watermark + grace)}, 2, 1)
        assert (await store.clock(new)).horizon == watermark + grace
        assert await store.pending_windows(new) is None
        await store.fold(new, [Move(0, 4, 5, NOW)], merged([alert(1, NOW)], windows), LIMITS)

    async def test_windows_change_before_anything_was_folded(self, store: Store) -> None:
        await start(store)
        await store.request_windows(VERSION, PendingWindows(self.WINDOWS, NOW, {0: 0, 1: 0}))
        assert await store.change_windows(VERSION, {})
        state = await store.load()
        assert state is not None
        assert (state.version, state.positions) == (self.NEW, {0: Position(0, -1), 1: Position(0, -1)})
        assert (await store.clock(self.NEW)).horizon is None

    @pytest.mark.parametrize("since", [None, NOW + 7])
    async def test_windows_since_is_never_before_c_or_an_earlier_s(self, store: Store, since: int | None) -> None:
        version = replace(VERSION, rebuild=Rebuild.of(NOW, WINDOWS), windows_since=since)
        assert version.rebuild is not None
        await start(store, version)
        await store.request_windows(version, PendingWindows(self.WINDOWS, NOW, {0: 0, 1: 0}))
        assert await store.change_windows(version, {})
        assert await store.version() == replace(self.NEW, windows_since=max(since or 0, version.rebuild.closed_before))

    async def test_windows_do_not_change_while_a_group_is_open_or_records_are_not_folded(
        self, store: Store, redis: Redis
    ) -> None:
        await self.request(store)
        await store.request_windows(VERSION, PendingWindows(self.WINDOWS, NOW, {0: 5, 1: 2}))
        before = await everything(redis)
        assert not await store.change_windows(VERSION, {})
        assert await everything(redis) == before
        await store.fold(VERSION, [Move(0, 4, 5, NOW)], merged([alert(1, NOW)]), LIMITS)
        before = await everything(redis)
        assert not await store.change_windows(VERSION, {})
        assert not await store.change_windows(replace(VERSION, number=4), {})
        assert await everything(redis) == before

    async def test_windows_do_not_change_while_redis_is_behind_the_commits(self, store: Store, redis: Redis) -> None:
        """It went back, maybe to before aggregates that are published: under other windows they would count again."""
        await self.request(store)
        before = await everything(redis)
        assert not await store.change_windows(VERSION, {0: 4, 1: 3})
        assert await everything(redis) == before
        assert await store.change_windows(VERSION, {0: 4, 1: 2})

    async def test_what_was_closed_by_a_commit_is_not_counted_under_new_windows(self, store: Store) -> None:
        """Redis may have gone back to a horizon before it, at the same positions."""
        await self.request(store)
        assert await store.change_windows(VERSION, {0: 4, 1: 2}, NOW + 50)
        assert await store.version() == replace(self.NEW, windows_since=NOW + 50)

    async def test_windows_do_not_change_without_a_request(self, store: Store) -> None:
        await start(store)
        assert not await store.change_windows(VERSION, {})
        assert await store.version() == VERSION


class TestSweep:
    """Keys of other state versions."""

    async def test_all_keys_of_older_versions_are_deleted(self, store: Store, redis: Redis) -> None:
        """The current version, other prefixes and foreign keys stay."""
        other = Store(redis, "stormfold2")
        await start(other)
        await redis.set("somebody else's", 1)
        await start(store, replace(VERSION, number=9))
        old = Folder(store, replace(VERSION, number=9))
        await old([alert(n, n * 10) for n in range(1_200)])
        await start(store, replace(VERSION, number=10), before=9)
        await Folder(store, replace(VERSION, number=10))([alert(1, 3)])
        left = {k: v for k, v in (await everything(redis)).items() if not k.startswith(store.keys.of(9).base.encode())}
        assert await store.sweep(10) == 1_200 + 5
        assert await everything(redis) == left
        assert await store.sweep(10) == 0
        await redis.delete(*[key async for key in redis.scan_iter(match="stormfold2:*")])

    @pytest.mark.parametrize(("swept", "newer"), [(2, 3), (9, 10), (1, 12)])
    async def test_keys_of_newer_versions_stay(self, store: Store, redis: Redis, swept: int, newer: int) -> None:
        """A worker that slept since it opened its version must not delete the one that followed."""
        await start(store, replace(VERSION, number=newer))
        alerts = [alert(1, 3)]
        await Folder(store, replace(VERSION, number=newer))(alerts)
        before = await everything(redis)
        assert await store.sweep(swept) == 0
        assert await everything(redis) == before
        assert await contents(store, replace(VERSION, number=newer)) == plain.buckets(alerts, WINDOWS)


async def test_reset_partitions_begin_at_offset_0(store: Store) -> None:
    await start(store)
    await store.fold(VERSION, [Move(0, 0, 4, NOW), Move(1, 0, 3, NOW)], merged([alert(1, 3)]), LIMITS)
    await store.reset_positions(VERSION, [1])
    await store.reset_positions(VERSION, [])
    state = await store.load()
    assert state is not None
    assert state.positions == {0: Position(4, NOW), 1: Position(0, -1)}
