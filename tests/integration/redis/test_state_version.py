"""open_state.lua and change_windows.lua: the first wins; and what other epochs left behind is swept away."""

import asyncio
from dataclasses import replace
from typing import ClassVar

import pytest
from redis.asyncio import Redis

from stormfold.positions import Position
from stormfold.redis.store import MarksSnapshot, Move, PendingWindows, StaleStateVersion, StateVersion, Store
from stormfold.window import Rebuild, Windows
from tests.integration.model import plain
from tests.integration.redis.actions import (
    EPOCH,
    LIMITS,
    NOW,
    WINDOWS,
    Folder,
    alert,
    contents,
    everything,
    merged,
    start,
)


async def test_nothing_there(store: Store) -> None:
    """An empty Redis holds no epoch."""
    assert await store.load() is None
    assert await store.epoch() is None


@pytest.mark.parametrize("rebuild", [None, Rebuild(NOW - 90, NOW), Rebuild(-90, 0)], ids=str)
@pytest.mark.parametrize("since", [None, NOW])
async def test_opened(store: Store, rebuild: Rebuild | None, since: int | None) -> None:
    """All of it comes back as it was opened."""
    epoch = StateVersion(7, Windows(gap=60_000, grace=10_000, slice_length=300_000), 3, rebuild, since, NOW)
    starts = {0: Position(12, NOW), 1: Position(0, -1), 2: Position(2**40, NOW + 1)}
    assert await store.open_state_version(None, epoch, starts)
    state = await store.load()
    assert state is not None
    assert (state.epoch, state.positions, state.origins) == (epoch, starts, {})
    assert await store.epoch() == epoch


async def test_first_wins(store: Store, redis: Redis) -> None:
    """Of many that see the same need one opens the epoch; the others change nothing."""
    epochs = [StateVersion(1, replace(WINDOWS, grace=n), 1, None) for n in range(20)]
    opened = await asyncio.gather(
        *(store.open_state_version(None, epoch, {0: Position(n, -1)}) for n, epoch in enumerate(epochs))
    )
    assert opened.count(True) == 1
    winner = opened.index(True)
    state = await store.load()
    assert state is not None
    assert (state.epoch, state.positions[0].offset) == (epochs[winner], winner)
    before = await everything(redis)
    assert not await store.open_state_version(None, EPOCH, {})
    assert not await store.open_state_version(2, replace(EPOCH, number=3), {})
    assert await everything(redis) == before


async def test_the_next_begins_empty(store: Store) -> None:
    """Positions, origins, marks and buckets of the epoch before are not the new one's, and its workers are refused."""
    await start(store)
    fold = Folder(store)
    await fold([alert(1, 3)])
    await store.claim(EPOCH, NOW, min_marks=0, most=0, token="t", lease=1)
    new = replace(EPOCH, number=2, rebuild=Rebuild.of(NOW, WINDOWS))
    assert await store.open_state_version(1, new, {0: Position(5, -1)})
    state = await store.load()
    assert state is not None
    assert (state.epoch, state.positions, state.origins) == (new, {0: Position(5, -1)}, {})
    assert (await store.marks(new), await contents(store, new)) == (MarksSnapshot({}, 0, 0), {})
    with pytest.raises(StaleStateVersion):
        await fold([alert(2, 3)])
    with pytest.raises(StaleStateVersion):
        await store.claim(EPOCH, NOW, min_marks=0, most=1, token="t", lease=1)


async def test_a_number_used_before(store: Store) -> None:
    """Positions that a lost epoch of the same number left behind are not mixed with the new ones."""
    await start(store)
    await Folder(store)([alert(1, 3)])
    await store.redis.delete(store.keys.epoch)
    await start(store, replace(EPOCH, partitions=1))
    state = await store.load()
    assert state is not None
    assert state.positions == {0: Position(0, -1)}


class TestOtherWindows:
    """change_windows.lua: once nothing is open, and all is folded that was there when they were asked for."""

    WINDOWS = Windows(gap=20, grace=5, slice_length=60)
    ENDS: ClassVar = {0: 4, 1: 2}
    NEW = replace(EPOCH, number=2, windows=WINDOWS, by=NOW)

    async def asked(self, store: Store, windows: Windows = WINDOWS) -> None:
        """They are asked for in an epoch that has been read to the ends."""
        await start(store)
        await store.fold(EPOCH, [Move(0, 0, 4, NOW)], merged([]), LIMITS)
        batch = merged([])
        batch.marks, batch.alerts_partitions, batch.origins = {(0, 0): NOW}, 2, {(0, 1): (3, 2)}
        await store.fold(EPOCH, [Move(1, 0, 2, NOW)], batch, LIMITS)
        await store.claim(EPOCH, NOW, min_marks=0, most=1, token="t", lease=1)
        await store.ask(EPOCH, PendingWindows(windows, NOW, self.ENDS))
        assert await store.asked(EPOCH) == PendingWindows(windows, NOW, self.ENDS)

    @pytest.mark.parametrize("grace", [0, 5, 50])
    async def test_drained(self, store: Store, grace: int) -> None:
        """Positions, origins and marks go on; the watermark stays where it is, and is the floor."""
        windows = replace(self.WINDOWS, grace=grace)
        await self.asked(store, windows)
        assert await store.change_windows(EPOCH)
        state = await store.load()
        assert state is not None
        watermark = NOW - EPOCH.windows.grace
        new = replace(self.NEW, windows=windows, since=watermark)
        assert (state.epoch, state.positions) == (new, {0: Position(4, NOW), 1: Position(2, NOW)})
        assert state.origins == {(0, 1): (3, 2)}
        # What was sent under the larger grace may lie so far before its mark.
        assert await store.marks(new) == MarksSnapshot({(0, 0): min(NOW, watermark + grace)}, 2, 1)
        assert (await store.clock(new)).horizon == watermark + grace
        assert await store.asked(new) is None
        await store.fold(new, [Move(0, 4, 5, NOW)], merged([alert(1, NOW)], windows), LIMITS)

    async def test_before_anything_was_folded(self, store: Store) -> None:
        """There may be no origins, marks or floor yet."""
        await start(store)
        await store.ask(EPOCH, PendingWindows(self.WINDOWS, NOW, {0: 0, 1: 0}))
        assert await store.change_windows(EPOCH)
        state = await store.load()
        assert state is not None
        assert (state.epoch, state.positions) == (self.NEW, {0: Position(0, -1), 1: Position(0, -1)})
        assert (await store.clock(self.NEW)).horizon is None

    @pytest.mark.parametrize("since", [None, NOW + 7])
    async def test_a_rebuild_before_its_marks(self, store: Store, since: int | None) -> None:
        """The floor is not before C, nor before the floor that was."""
        epoch = replace(EPOCH, rebuild=Rebuild.of(NOW, WINDOWS), since=since)
        assert epoch.rebuild is not None
        await start(store, epoch)
        await store.ask(epoch, PendingWindows(self.WINDOWS, NOW, {0: 0, 1: 0}))
        assert await store.change_windows(epoch)
        assert await store.epoch() == replace(self.NEW, since=max(since or 0, epoch.rebuild.closed_before))

    async def test_not_yet(self, store: Store, redis: Redis) -> None:
        """While something is open, or was not read again, nothing happens; nor unasked, nor in another epoch."""
        await self.asked(store)
        await store.ask(EPOCH, PendingWindows(self.WINDOWS, NOW, {0: 5, 1: 2}))
        before = await everything(redis)
        assert not await store.change_windows(EPOCH)
        assert await everything(redis) == before
        await store.fold(EPOCH, [Move(0, 4, 5, NOW)], merged([alert(1, NOW)]), LIMITS)
        before = await everything(redis)
        assert not await store.change_windows(EPOCH)
        assert not await store.change_windows(replace(EPOCH, number=4))
        assert await everything(redis) == before

    async def test_unasked(self, store: Store) -> None:
        """Nobody asked."""
        await start(store)
        assert not await store.change_windows(EPOCH)
        assert await store.epoch() == EPOCH


class TestSweep:
    """What other epochs left behind."""

    async def test_older_ones(self, store: Store, redis: Redis) -> None:
        """All keys of older epochs go, however many; the epoch that stands, other prefixes and strangers stay."""
        other = Store(redis, "stormfold2")
        await start(other)
        await redis.set("somebody else's", 1)
        await start(store, replace(EPOCH, number=9))
        old = Folder(store, replace(EPOCH, number=9))
        await old([alert(n, n * 10) for n in range(1_200)])
        await start(store, replace(EPOCH, number=10), before=9)
        await Folder(store, replace(EPOCH, number=10))([alert(1, 3)])
        left = {k: v for k, v in (await everything(redis)).items() if not k.startswith(store.keys.of(9).base.encode())}
        assert await store.sweep(10) == 1_200 + 5
        assert await everything(redis) == left
        assert await store.sweep(10) == 0
        await redis.delete(*[key async for key in redis.scan_iter(match="stormfold2:*")])

    @pytest.mark.parametrize(("swept", "newer"), [(2, 3), (9, 10), (1, 12)])
    async def test_never_newer_ones(self, store: Store, redis: Redis, swept: int, newer: int) -> None:
        """A worker that slept since it opened its epoch must not sweep the one that others opened after it."""
        await start(store, replace(EPOCH, number=newer))
        alerts = [alert(1, 3)]
        await Folder(store, replace(EPOCH, number=newer))(alerts)
        before = await everything(redis)
        assert await store.sweep(swept) == 0
        assert await everything(redis) == before
        assert await contents(store, replace(EPOCH, number=newer)) == plain.buckets(alerts, WINDOWS)


async def test_positions_reset(store: Store) -> None:
    """Partitions of a topic that was created anew begin at 0; the others stay."""
    await start(store)
    await store.fold(EPOCH, [Move(0, 0, 4, NOW), Move(1, 0, 3, NOW)], merged([alert(1, 3)]), LIMITS)
    await store.reset_positions(EPOCH, [1])
    await store.reset_positions(EPOCH, [])
    state = await store.load()
    assert state is not None
    assert state.positions == {0: Position(4, NOW), 1: Position(0, -1)}
