"""Retention as a component of the worker: a long run differs from one that hangs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from stormfold import metrics
from stormfold.config import Config, ReloadableConfig
from stormfold.errors import Retry
from stormfold.health import Health
from stormfold.settings import Settings
from stormfold.sinks.kinds import STORMS
from stormfold.sinks.null import NullSink
from stormfold.stages.emitted import Emitted
from stormfold.stages.retention import Retention
from tests.support.servers import until


class SlowSink(NullSink):
    """Deletes one of `left` resources for each permit; fails after the last one."""

    def __init__(self, left: int) -> None:
        self.permits = asyncio.Semaphore(0)
        self.left = left

    async def delete_expired(self, *arguments: Any) -> None:
        *_, on_deleted = arguments
        while self.left:
            await self.permits.acquire()
            self.left -= 1
            on_deleted(1)
        raise Retry("the API server does not answer")


@asynccontextmanager
async def running_retention(sink: SlowSink) -> AsyncIterator[Health]:
    health = Health()
    emitted = Emitted(STORMS, Settings(), ReloadableConfig(Config()))
    retention = Retention(emitted, sink, health)
    await retention.start()
    try:
        yield health
    finally:
        await retention.stop()


def deleted() -> float:
    return metrics.REGISTRY.get_sample_value("stormfold_resources_deleted_total", {"kind": "AlertStorm"}) or 0.0


async def counted(number: float) -> None:
    await until(lambda: deleted() == number, what="the deletion is counted")


async def test_retention_is_stale_only_if_it_makes_no_progress() -> None:
    """While one run deletes, each deletion is a heartbeat and is counted at once; without one, it is stale."""
    sink, before = SlowSink(21), deleted()
    async with running_retention(sink) as health:
        for number in range(1, 21):
            last = health.heartbeats.get("retention", 0.0)
            sink.permits.release()
            await counted(before + number)
            assert health.heartbeats["retention"] > last
        assert health.problems() == []
        health.timeout = 0.1
        await until(lambda: health.stale() == ["retention"], what="it hangs")
        health.timeout = 60.0
        sink.permits.release()
        await until(health.problems, what="it has failed")
        assert [found.problem for found in health.problems()] == ["the API server does not answer"]
        assert deleted() - before == 21
