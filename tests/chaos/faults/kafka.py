"""Faults of the Kafka cluster: brokers killed and frozen, partitions added."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random

from aiokafka.admin import NewPartitions
from aiokafka.errors import KafkaError

from stormfold.kafka.client import open_admin
from stormfold.kafka.committed import read_committed
from stormfold.kafka.topics import partition_counts
from stormfold.local.kafka import EmbeddedKafka
from tests.chaos.brokers import coordinators, freeze, settled, thaw
from tests.chaos.faults.fault import Broken, Proof, stopped
from tests.chaos.world import World
from tests.support.servers import until


@asynccontextmanager
async def kafka_killed(world: World, _: Random) -> AsyncIterator[Proof | None]:
    servers = world.kafka.servers
    await asyncio.gather(*(asyncio.to_thread(server.kill) for server in servers))
    yield None
    await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))


@asynccontextmanager
async def kafka_frozen(world: World, _: Random) -> AsyncIterator[Proof | None]:
    servers = world.kafka.servers
    for server in servers:
        freeze(server)
    yield stopped(*(server.pid for server in servers))
    for server in servers:
        thaw(server)


@asynccontextmanager
async def _without_broker(
    world: World, rng: Random, take: Callable[[EmbeddedKafka], None], back: Callable[[EmbeddedKafka], None]
) -> AsyncIterator[Proof | None]:
    """Takes away a broker that coordinates some of the workers' groups, until the fault ends."""
    groups = [world.settings.consumer_group(stage) for stage in ("intake", "fold", "emit")]
    before = await coordinators(world.kafka.brokers[0], groups)
    node = rng.choice(sorted({*before.values()}))
    broker, other = world.kafka.broker(node), world.kafka.broker(world.kafka.rest(node))
    await asyncio.to_thread(take, broker)

    async def moved() -> bool:
        now = await coordinators(other, groups)
        return now.keys() == before.keys() and node not in now.values()

    yield moved
    await asyncio.to_thread(back, broker)


async def leaders_settled(world: World) -> None:
    """Waits until preferred leaders lead again: the next fault that moves them must find them in place."""

    async def all_settled() -> bool:
        with suppress(KafkaError, OSError):
            return all([await settled(broker) for broker in world.kafka.brokers])
        return False

    await until(all_settled, 60, "preferred leaders lead")


def broker_killed(world: World, rng: Random) -> Broken:
    return _without_broker(world, rng, EmbeddedKafka.kill, EmbeddedKafka.start)


def broker_restarted(world: World, rng: Random) -> Broken:
    return _without_broker(world, rng, EmbeddedKafka.stop, EmbeddedKafka.start)


def broker_frozen(world: World, rng: Random) -> Broken:
    return _without_broker(world, rng, freeze, thaw)


async def _add_partition(world: World, topic: str) -> int:
    async with open_admin(world.settings) as admin:
        count = (await partition_counts(admin))[topic]
        await admin.create_partitions({topic: NewPartitions(count + 1)})

        async def added() -> bool:
            return (await partition_counts(admin))[topic] > count

        await until(added, 30, f"{topic} has one more partition")
    return count


@asynccontextmanager
async def alerts_partition_added(world: World, _: Random) -> AsyncIterator[Proof | None]:
    world.producer.partitions = await _add_partition(world, world.settings.alerts_topic) + 1
    yield None


async def alerts_partition_read(world: World) -> None:
    """Waits until the newest partition is read: from then on its alerts are not late."""
    settings, added = world.settings, world.producer.partitions - 1

    async def read() -> bool:
        return added in await read_committed(settings, settings.consumer_group("intake"), settings.alerts_topic)

    await until(read, 60, "the new partition is read")
    world.producer.known[added] = time.time_ns() // 1_000_000


@asynccontextmanager
async def keyed_partition_added(world: World, _: Random) -> AsyncIterator[Proof | None]:
    await _add_partition(world, world.settings.keyed_topic)
    yield None


@asynccontextmanager
async def storms_partition_added(world: World, _: Random) -> AsyncIterator[Proof | None]:
    await _add_partition(world, world.settings.storms_topic)
    yield None
