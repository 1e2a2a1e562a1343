"""clock.lua: horizon and open groups are those of one moment, whatever happens to Redis between two commands."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from stormfold.positions import Position
from stormfold.redis.clock import Clock
from stormfold.redis.errors import StaleStateVersion
from stormfold.redis.store import Store
from stormfold.stages.state_version import closed_before
from tests.integration.redis.actions import NOW, VERSION, WINDOWS, Folder, alert, start

Change = Callable[[], Awaitable[Any]]


class InterruptedRedis(Redis):
    """A client; something happens to the server after each of its commands, also inside a pipeline."""

    change: Change | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        reply = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        if self.change is not None:
            await self.change()
        return reply

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        pipeline: Any = super().pipeline(transaction, shard_hint)

        async def execute() -> list[Any]:
            return [await self.execute_command(*args) for args, _ in pipeline.command_stack]

        pipeline.execute = execute
        return pipeline


@pytest.fixture
async def interrupted(store: Store) -> AsyncIterator[InterruptedRedis]:
    client = InterruptedRedis(connection_pool=store.redis.connection_pool)
    yield client
    client.change = None


async def _with_an_open_group(store: Store) -> None:
    """The horizon is far after the open group's only bucket."""
    await start(store)
    await Folder(store)([alert(1, 3)])
    await store.claim(VERSION, NOW + 10 * WINDOWS.slice_length, min_marks=0, limit=0, token="t", lease=1)


async def test_the_clock_has_horizon_and_oldest_open_group(store: Store) -> None:
    await start(store)
    assert await store.clock(VERSION) == Clock(None, 0, None)
    await _reopen(store)
    await _with_an_open_group(store)
    assert await store.clock(VERSION) == Clock(NOW + 10 * WINDOWS.slice_length, 1, NOW)


async def _reopen(store: Store) -> None:
    await store.redis.delete(store.keys.state_version)


async def test_a_redis_that_loses_its_data_between_reads_never_passes_an_open_group(
    store: Store, interrupted: InterruptedRedis
) -> None:
    """C must not be after an open group: a rebuild from it would drop alerts that were never published."""
    await _with_an_open_group(store)
    interrupted.change = store.redis.flushall
    try:
        clock = await Store(interrupted, store.prefix).clock(VERSION)
    except StaleStateVersion:
        return
    assert closed_before(VERSION, clock) == NOW


async def test_a_sweep_between_reads_never_passes_an_open_group(store: Store, interrupted: InterruptedRedis) -> None:
    await _with_an_open_group(store)
    following = replace(VERSION, number=2)

    async def open_and_sweep() -> None:
        await store.open_state_version(1, following, {0: Position(0)})
        await store.sweep(2)

    interrupted.change = open_and_sweep
    try:
        clock = await Store(interrupted, store.prefix).clock(VERSION)
    except StaleStateVersion:
        return
    assert closed_before(VERSION, clock) == NOW


async def test_the_clock_of_another_state_version_is_refused(store: Store) -> None:
    with pytest.raises(StaleStateVersion):
        await store.clock(VERSION)
    await start(store)
    with pytest.raises(StaleStateVersion):
        await store.clock(replace(VERSION, number=2))
