"""Faults of sinks: a full file system, and outages of the API server."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from pathlib import Path
from random import Random

from stormfold.sinks.kubernetes import REQUEST_SECONDS
from stormfold.stages.emit import MAX_BACKOFF
from tests.chaos.faults.fault import Broken, Proof, counts_more
from tests.chaos.world import World
from tests.support.apiserver import ApiServer
from tests.support.outages import (
    create_namespace,
    delete_namespace,
)

SINK_ERRORS = "stormfold_sink_errors_total"
NOTICED = max(REQUEST_SECONDS, MAX_BACKOFF) + 5.0
"""Seconds after which the worker that writes to the API server has failed at least once: it may be waiting for a
response or for its next attempt, and then needs a storm to write."""


async def _unwritten(world: World) -> Proof:
    """Returns a proof that holds if a storm could not be written to the cluster."""
    return await counts_more(lambda: world.emitters, SINK_ERRORS)


async def _noticed(errors: Proof) -> None:
    """Waits until a storm could not be written, or `NOTICED` has passed: there may be no storm, or no worker."""
    for _ in range(round(NOTICED / 0.5)):
        if await errors():
            break
        await asyncio.sleep(0.5)


@asynccontextmanager
async def disk_full(world: World, _: Random) -> AsyncIterator[Proof | None]:
    filler = world.sink / ".filler"
    errors = await counts_more(lambda: world.full_workers, SINK_ERRORS)
    await asyncio.to_thread(_fill, filler)
    yield errors
    filler.unlink()


def _fill(filler: Path) -> None:
    with filler.open("wb") as file:
        while (free := os.statvfs(filler.parent)).f_bavail:
            # Workers may use some of it at the same time.
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free.f_bavail * free.f_frsize)


def outage(broken: Callable[[ApiServer], AbstractContextManager[None]]) -> Callable[[World, Random], Broken]:
    @asynccontextmanager
    async def outage(world: World, _: Random) -> AsyncIterator[Proof | None]:
        context = broken(world.cluster.server)
        errors = await _unwritten(world)
        await asyncio.to_thread(context.__enter__)
        await _noticed(errors)
        yield errors
        await asyncio.to_thread(context.__exit__, None, None, None)

    return outage


def felt(act: Callable[[World, Random], Broken]) -> Callable[[World, Random], Broken]:
    """Wraps a fault: it struck if a storm could not be written, even if the way itself answers."""

    @asynccontextmanager
    async def felt(world: World, rng: Random) -> AsyncIterator[Proof | None]:
        errors = await _unwritten(world)
        async with act(world, rng):
            await _noticed(errors)
            yield errors

    return felt


@asynccontextmanager
async def namespace_deleted(world: World, _: Random) -> AsyncIterator[Proof | None]:
    errors = await _unwritten(world)
    await asyncio.to_thread(delete_namespace, world.cluster.server, "storms")
    await _noticed(errors)
    yield errors
    await asyncio.to_thread(create_namespace, world.cluster.server, "storms")


@asynccontextmanager
async def definition_removed(world: World, _: Random) -> AsyncIterator[Proof | None]:
    cluster = world.cluster
    # Deleting the definition deletes all storms: no storm may be written after they are counted.
    await cluster.way.cut()
    cluster.gone |= await asyncio.to_thread(cluster.server.storms)
    await asyncio.to_thread(cluster.server.uninstall, 300)
    errors = await _unwritten(world)
    await cluster.way.mend()
    await _noticed(errors)
    yield errors
    await asyncio.to_thread(cluster.server.install)
