"""Retention as a part of the worker: a long round is told from one that hangs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app import metrics
from app.config import Config
from app.errors import Retry
from app.health import Health
from app.sinks import Gone
from app.sinks.nowhere import Nowhere
from app.stages.retain import Retain
from tests.support.servers import until

PATIENCE = 0.5


class Slow(Nowhere):
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
    health = Health(patience=PATIENCE)
    retain = Retain(Config(), sink, health)
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
            assert health.dead() == []
        assert counted() - before == 20
        await until(lambda: health.dead() == ["retention"], what="it hangs")
        sink.turn.release()
        await until(lambda: health.troubles(), what="it has failed")
        assert health.dead() == [] and counted() - before == 21
