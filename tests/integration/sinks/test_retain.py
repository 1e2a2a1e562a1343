"""Retention as a part of the worker: a long round is told from one that hangs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stormfold import metrics
from stormfold.config import Config
from stormfold.errors import Retry
from stormfold.health import Health
from stormfold.sinks import Gone
from stormfold.sinks.null import NullSink
from stormfold.stages.retention import Retention
from tests.support.servers import until

PATIENCE = 0.5


class Slow(NullSink):
    """Deletes a storm whenever it is let; fails in the end."""

    def __init__(self) -> None:
        self.turn = asyncio.Semaphore(0)
        self.left = 0

    async def retain(self, now: int, retention: int, max_storms: int, gone: Gone) -> None:  # noqa: ARG002
        while self.left:
            await self.turn.acquire()
            self.left -= 1
            gone(1)
        raise Retry("the API server is away")


@asynccontextmanager
async def retaining(sink: Slow) -> AsyncIterator[Health]:
    health = Health(timeout=PATIENCE)
    retain = Retention(Config(), sink, health)
    await retain.start()
    try:
        yield health
    finally:
        await retain.stop()


def counted() -> float:
    return metrics.REGISTRY.get_sample_value("stormfold_resources_deleted_total") or 0.0


async def test_a_long_round_is_alive() -> None:
    """A round of many times health's patience is not taken for dead while it gets on, and counts what went as it goes.

    A round that hangs is; and what went before an error stays counted.
    """
    sink, before = Slow(), counted()
    sink.left = 21
    async with retaining(sink) as health:
        for _ in range(20):
            sink.turn.release()
            await asyncio.sleep(PATIENCE / 5)
            assert health.stale() == []
        assert counted() - before == 20
        await until(lambda: health.stale() == ["retention"], what="it hangs")
        sink.turn.release()
        await until(lambda: health.reported, what="it has failed")
        assert health.stale() == [] and counted() - before == 21
