"""Work that is repeated, and the event that makes close repeat it at once."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from stormfold.config import ReloadableConfig, loads
from stormfold.errors import Retry
from stormfold.health import Health
from stormfold.settings import Settings
from stormfold.stages import periodic
from stormfold.stages.fold import Fold
from stormfold.stages.periodic import PeriodicService


class Work(PeriodicService):
    """Fails as often as `failures`, then has an hour until the next time."""

    def __init__(self) -> None:
        super().__init__(Health())
        self.failures = 0
        self.rounds: asyncio.Queue[float] = asyncio.Queue()

    async def run_once(self) -> float:
        self.rounds.put_nowait(asyncio.get_running_loop().time())
        if self.failures:
            self.failures -= 1
            self.wake()
            raise Retry("not yet")
        return 3600.0


async def test_waking_ends_the_wait_and_a_wake_during_the_work_is_not_lost() -> None:
    work = Work()
    async with work, asyncio.timeout(20):
        await work.rounds.get()
        await asyncio.sleep(0.01)
        assert work.rounds.empty()
        work.wake()
        await work.rounds.get()
        work.wake()
        work.wake()
        await work.rounds.get()
        await asyncio.sleep(0.01)
        assert work.rounds.empty()


async def test_waking_does_not_shorten_the_wait_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic, "BACKOFF", 0.2)
    work = Work()
    work.failures = 1
    async with work, asyncio.timeout(20):
        assert -await work.rounds.get() + await work.rounds.get() >= 0.19


def test_close_is_woken_when_the_slowest_partition_has_advanced() -> None:
    member: Any = SimpleNamespace(event_times={})
    unused: Any = None
    fold = Fold(Settings(), ReloadableConfig(loads("", "test")), unused, unused, Health(), member)
    woken: list[int] = []
    fold.on_progress = lambda: woken.append(1)
    for marks, expected in [
        ({(0, 0): 5, (0, 1): 7}, 1),
        ({(0, 1): 9}, 1),
        ({}, 1),
        ({(0, 0): 4}, 1),
        ({(0, 0): 6}, 2),
        ({(1, 0): 3}, 2),
        ({(1, 0): 8}, 3),
    ]:
        fold._advance(marks)
        assert len(woken) == expected, marks
    assert member.event_times == {0: 9, 1: 8}
