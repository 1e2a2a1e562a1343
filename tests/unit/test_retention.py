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

TIMEOUT = 0.5


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
    health = Health(timeout=TIMEOUT)
    emitted = Emitted(STORMS, Settings(), ReloadableConfig(Config()))
    retention = Retention(emitted, sink, health)
    await retention.start()
    try:
        yield health
    finally:
        await retention.stop()


def deleted() -> float:
    return metrics.REGISTRY.get_sample_value("stormfold_resources_deleted_total", {"kind": "AlertStorm"}) or 0.0


async def test_retention_is_stale_only_if_it_makes_no_progress() -> None:
    """A run far longer than the timeout of health is healthy while it deletes, and each deletion is counted at once."""
    sink, before = SlowSink(21), deleted()
    async with running_retention(sink) as health:
        for _ in range(20):
            sink.permits.release()
            await asyncio.sleep(TIMEOUT / 5)
            assert health.stale() == []
        assert deleted() - before == 20
        await until(lambda: health.stale() == ["retention"], what="it hangs")
        sink.permits.release()
        await until(lambda: health.stale() == [], what="it has failed")
        assert [found.problem for found in health.problems()] == ["the API server does not answer"]
        assert deleted() - before == 21
