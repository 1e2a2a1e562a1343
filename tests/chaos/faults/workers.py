"""Faults of workers: killed, restarted, frozen, added."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from tests.chaos.faults.fault import READY, Proof, stopped
from tests.chaos.world import World
from tests.support.servers import until


@asynccontextmanager
async def worker_killed(world: World, rng: Random) -> AsyncIterator[Proof | None]:
    slot = rng.choice(world.expendable)
    await world.end(slot, signal.SIGKILL)
    yield None
    world.start(slot)


@asynccontextmanager
async def workers_killed(world: World, _: Random) -> AsyncIterator[Proof | None]:
    slots = world.all_workers
    for slot in slots:
        await world.end(slot, signal.SIGKILL)
    yield None
    for slot in slots:
        world.start(slot)


@asynccontextmanager
async def workers_rolled(world: World, _: Random) -> AsyncIterator[Proof | None]:
    for slot in world.all_workers:
        await world.end(slot, signal.SIGTERM)
        world.start(slot)
        await until(slot.ready, READY, "the new worker is ready")
    yield None


@asynccontextmanager
async def worker_frozen(world: World, rng: Random) -> AsyncIterator[Proof | None]:
    process = rng.choice(world.all_workers).process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    yield stopped(process.pid)
    process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def worker_added(world: World, _: Random) -> AsyncIterator[Proof | None]:
    (slot,) = (slot for slot in world.slots if not slot.running)
    world.start(slot)
    await until(slot.ready, READY, "the new worker is ready")
    yield None
    await world.end(slot, signal.SIGTERM)
