"""The faults. Each is a context manager that breaks a real server or worker on entry and repairs it on exit."""

import asyncio
import os
import signal
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from aiokafka.admin import NewPartitions
from aiokafka.errors import KafkaError
from redis.asyncio import Redis

from stormfold.errors import StormfoldError
from stormfold.kafka.client import open_admin
from stormfold.kafka.committed import read_committed
from stormfold.kafka.topics import partition_counts
from stormfold.local.kafka import EmbeddedKafka
from stormfold.redis.store import Store
from stormfold.sinks.kubernetes import REQUEST_SECONDS
from stormfold.stages.emit import MAX_BACKOFF
from tests.chaos.brokers import coordinators, freeze, settled, thaw
from tests.chaos.toxiproxy import Proxy
from tests.chaos.world import SESSION, Slot, World
from tests.support.apiserver import ApiServer
from tests.support.outages import (
    away,
    create_namespace,
    delete_namespace,
    failing,
    forbidden,
    saturated,
    storeless,
)
from tests.support.servers import until

Proof = Callable[[], Awaitable[bool]]
"""Returns, while a fault is active, whether it struck anything. None if it always strikes."""
Broken = AbstractAsyncContextManager[Proof | None]

HEALTHY = 0.09
"""Seconds within which a server answers through an intact way: less than any latency that a fault adds."""
NARROW = 5
"""Kilobytes a second of a narrow connection: less than half of what a stage reads or writes. Toxiproxy forwards in
pieces of a tenth of a second, so that even the first one is late."""
READY = 120.0
"""Seconds within which a new worker must be ready, even while another fault is active."""
FORGIVEN = 10_000
"""Milliseconds after which every worker, even one that was frozen, knows that Redis has room again."""


class Fault(NamedTuple):
    """One kind of fault. Its context manager yields the proof, if it has one."""

    part: str
    """The part that it breaks. Two faults at once break different parts."""
    description: str
    """Its description in the table."""
    seconds: tuple[float, float]
    """Shortest and longest duration."""
    act: Callable[[World, Random], Broken]
    sweeping: bool = False
    """Whether it hits every worker or every resource. Such faults are tried first, alone and in pairs: after them one
    worker lives until the end of the run, and resources accumulate."""
    takes: float = 0.0
    """Seconds that it takes in addition to its duration, approximately."""
    settles: Callable[[World], Coroutine[Any, Any, None]] | None = None
    """Waits, after the repair and before the next turn, until servers have settled; the pipeline recovers at the same
    time."""


async def _always(struck: bool) -> bool:
    return struck


def _known(struck: bool) -> Proof:
    """Returns a proof of what is known already."""
    return lambda: _always(struck)


async def _counts(slots: Callable[[], Sequence[Slot]], metric: str) -> Proof:
    """Returns a proof that holds if a metric of some worker grows; workers that do not answer now are ignored."""
    before = {slot.http: await slot.metric(metric) for slot in slots()}

    async def more(slot: Slot) -> bool:
        then, now = before.get(slot.http, 0.0), await slot.metric(metric)
        return then is not None and now is not None and now > then

    async def proof() -> bool:
        return any([await more(slot) for slot in slots()])

    return proof


def _stopped(*pids: int) -> Proof:
    """Returns a proof that holds if all processes are stopped."""
    stats = [Path(f"/proc/{pid}/stat") for pid in pids]
    return lambda: _always(all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats))


def _slowed(proxies: Sequence[Proxy], question: bytes) -> Proof:
    """Returns a proof that holds if no server answers in the usual time through these ways."""

    async def proof() -> bool:
        return all([await proxy.answers(question) > HEALTHY for proxy in proxies])

    return proof


# Workers


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
    yield _stopped(process.pid)
    process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def worker_added(world: World, _: Random) -> AsyncIterator[Proof | None]:
    (slot,) = (slot for slot in world.slots if not slot.running)
    world.start(slot)
    await until(slot.ready, READY, "the new worker is ready")
    yield None
    await world.end(slot, signal.SIGTERM)


# Redis


@asynccontextmanager
async def redis_killed(world: World, _: Random) -> AsyncIterator[Proof | None]:
    await asyncio.to_thread(world.redis.kill)
    yield None
    await asyncio.to_thread(world.redis.start)


@asynccontextmanager
async def redis_truncated(world: World, rng: Random) -> AsyncIterator[Proof | None]:
    await asyncio.to_thread(world.redis.kill)
    # Redis 6 has a single file; later versions append to the newest of several.
    log = max(world.redis.data_dir.rglob("*.aof"), key=lambda path: (path.stat().st_mtime, "incr" in path.name))
    size = log.stat().st_size
    kept = size - min(size // 2, rng.randrange(2_000_000))
    with log.open("rb") as file:
        file.seek(kept)
        # The lost part contains a position that fold had reached.
        struck = b":pos\r\n" in file.read()
    os.truncate(log, kept)
    yield _known(struck)
    await asyncio.to_thread(world.redis.start)


@asynccontextmanager
async def redis_flushed(world: World, _: Random) -> AsyncIterator[Proof | None]:
    async with Redis.from_url(world.redis.url) as redis:
        struck = await _reached(redis, world) > 0
        await redis.flushall()
    yield _known(struck)


@asynccontextmanager
async def redis_paused(world: World, rng: Random) -> AsyncIterator[Proof | None]:
    async with Redis.from_url(world.redis.url) as redis:
        await redis.client_pause(rng.randint(1_000, 8_000))
    begin = time.monotonic()
    async with Redis.from_url(world.redis.url, socket_timeout=60) as redis:
        await redis.ping()
    yield _known(time.monotonic() - begin > HEALTHY)


@asynccontextmanager
async def redis_asleep(world: World, rng: Random) -> AsyncIterator[Proof | None]:
    async with Redis.from_url(world.redis.url, socket_timeout=60) as redis:
        await redis.execute_command("DEBUG", "SLEEP", f"{rng.uniform(1.0, 8.0):.1f}")  # type: ignore[no-untyped-call]
    yield None


@asynccontextmanager
async def redis_full(world: World, _: Random) -> AsyncIterator[Proof | None]:
    refused = await _counts(lambda: world.full_workers, "stormfold_redis_oom_rejections_total")
    async with Redis.from_url(world.redis.url) as redis:
        folded = await _watermark(redis, world)
        await redis.config_set("maxmemory", "1mb")
    yield refused
    async with Redis.from_url(world.redis.url) as redis:
        await redis.config_set("maxmemory", "512mb")
    world.truncated.append((folded, time.time_ns() // 1_000_000 + FORGIVEN))


async def _watermark(redis: Redis, world: World) -> int:
    """Returns the event time (ms) before which everything is folded. Without a horizon every storm would be excused."""
    store = Store(redis, world.settings.redis_prefix)

    async def horizon() -> int | None:
        epoch = await store.version()
        return (await store.clock(epoch)).horizon if epoch else None

    return int(await until(horizon, 60, "Redis has a horizon")) - world.config.windows.grace


async def _reached(redis: Redis, world: World) -> int:
    """Returns the sum of fold's positions in this Redis."""
    with suppress(StormfoldError):
        state = await Store(redis, world.settings.redis_prefix).load()
        return sum(position.offset for position in state.positions.values()) if state else 0
    return 0


@asynccontextmanager
async def redis_forgot_scripts(world: World, _: Random) -> AsyncIterator[Proof | None]:
    async with Redis.from_url(world.redis.url) as redis:
        struck = (await redis.info("memory"))["number_of_cached_scripts"] > 0
        await redis.script_flush()
    yield _known(struck)


@asynccontextmanager
async def redis_failed_over(world: World, rng: Random) -> AsyncIterator[Proof | None]:
    old = world.redis
    await world.another_redis()
    async with Redis.from_url(world.redis.url) as redis:
        await redis.replicaof(*old.address.split(":"))
        await until(lambda: _in_step(redis), 30, "the replica is in sync")
        # Writes to the old server are lost from here on.
        await redis.replicaof("NO", "ONE")
    await asyncio.sleep(rng.uniform(0.2, 2.0))
    async with Redis.from_url(old.url) as before, Redis.from_url(world.redis.url) as after:
        struck = await _reached(before, world) > await _reached(after, world)
    await asyncio.to_thread(old.kill)
    await world.lead_to_redis()
    yield _known(struck)


async def _in_step(redis: Redis) -> bool:
    return (await redis.info("replication")).get("master_link_status") == "up"


# Kafka


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
    yield _stopped(*(server.pid for server in servers))
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


async def _settled(world: World) -> None:
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


async def _alerts_partition_read(world: World) -> None:
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


# The network between workers and servers


Ways = Callable[[World], Sequence[Sequence[Proxy]]]
"""Returns, for each usual worker that needs servers of one kind, its ways to each of them."""


def _hit(world: World, rng: Random, ways: Ways) -> list[Proxy]:
    """Draws ways: of one worker or of all, to one server or to all."""
    workers = ways(world)
    servers = list(zip(*rng.choice(([rng.choice(workers)], workers)), strict=True))
    return [way for server in rng.choice(([rng.choice(servers)], servers)) for way in server]


def _cut(ways: Ways) -> Callable[[World, Random], Broken]:
    @asynccontextmanager
    async def cut(world: World, rng: Random) -> AsyncIterator[Proof | None]:
        proxies = _hit(world, rng, ways)
        await asyncio.gather(*(proxy.cut() for proxy in proxies))
        yield _slowed(proxies, QUESTIONS[ways])
        await asyncio.gather(*(proxy.mend() for proxy in proxies))

    return cut


def _poisoned(ways: Ways, kind: str, **attributes: int) -> Callable[[World, Random], Broken]:
    @asynccontextmanager
    async def poisoned(world: World, rng: Random) -> AsyncIterator[Proof | None]:
        stream = rng.choice(("upstream", "downstream"))
        proxies = _hit(world, rng, ways)
        await asyncio.gather(*(proxy.poison(kind, stream, **attributes) for proxy in proxies))
        yield _slowed(proxies, QUESTIONS[ways])
        await asyncio.gather(*(proxy.mend() for proxy in proxies))

    return poisoned


@asynccontextmanager
async def answers_late(world: World, _: Random) -> AsyncIterator[Proof | None]:
    proxies = [way for worker in _kafka(world) for way in worker]
    await asyncio.gather(*(proxy.poison("latency", latency=world.config.windows.grace + 500) for proxy in proxies))
    yield _slowed(proxies, QUESTIONS[_kafka])
    await asyncio.gather(*(proxy.mend() for proxy in proxies))


def _kafka(world: World) -> Sequence[Sequence[Proxy]]:
    return [slot.kafka for slot in [*world.usual, *world.emitters]]


def _redis(world: World) -> Sequence[Sequence[Proxy]]:
    return [[slot.redis] for slot in world.usual]


def _api(world: World) -> Sequence[Sequence[Proxy]]:
    return [[world.cluster.way]]


QUESTIONS: dict[Ways, bytes] = {
    _redis: b"PING\r\n",
    # The length, then Metadata version 0 with correlation 0 and a long client name, for every topic: request and
    # response are so long that a narrow way delays them.
    _kafka: struct.pack(">ihhih1000si", 1014, 3, 0, 0, 1000, b"x" * 1000, 0),
    # The server answers that it expects TLS.
    _api: b"GET / HTTP/1.0\r\n\r\n",
}
"""A request that the server of a way answers without authentication."""


# Producers


@asynccontextmanager
async def clocks_skewed(world: World, rng: Random) -> AsyncIterator[Proof | None]:
    grace = world.config.windows.grace
    skew = world.producer.skew
    for partition in range(world.producer.partitions):
        skew[partition] = rng.choice((0, -grace * 3 // 4, grace * 3 // 4, -3 * grace, 10 * grace))
    producer = world.producer
    before = len(producer.tardy) + len(producer.ahead)

    async def proof() -> bool:
        return len(producer.tardy) + len(producer.ahead) > before

    yield proof
    skew.clear()


# Sinks

SINK_ERRORS = "stormfold_sink_errors_total"
NOTICED = max(REQUEST_SECONDS, MAX_BACKOFF) + 5.0
"""Seconds after which the worker that writes to the API server has failed at least once: it may be waiting for a
response or for its next attempt, and then needs a storm to write."""


async def _unwritten(world: World) -> Proof:
    """Returns a proof that holds if a storm could not be written to the cluster."""
    return await _counts(lambda: world.emitters, SINK_ERRORS)


async def _noticed(errors: Proof) -> None:
    """Waits until a storm could not be written, or `NOTICED` has passed: there may be no storm, or no worker."""
    for _ in range(round(NOTICED / 0.5)):
        if await errors():
            break
        await asyncio.sleep(0.5)


@asynccontextmanager
async def disk_full(world: World, _: Random) -> AsyncIterator[Proof | None]:
    filler = world.sink / ".filler"
    errors = await _counts(lambda: world.full_workers, SINK_ERRORS)
    await asyncio.to_thread(_fill, filler)
    yield errors
    filler.unlink()


def _fill(filler: Path) -> None:
    with filler.open("wb") as file:
        while (free := os.statvfs(filler.parent)).f_bavail:
            # Workers may use some of it at the same time.
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free.f_bavail * free.f_frsize)


def _outage(broken: Callable[[ApiServer], AbstractContextManager[None]]) -> Callable[[World, Random], Broken]:
    @asynccontextmanager
    async def outage(world: World, _: Random) -> AsyncIterator[Proof | None]:
        context = broken(world.cluster.server)
        errors = await _unwritten(world)
        await asyncio.to_thread(context.__enter__)
        await _noticed(errors)
        yield errors
        await asyncio.to_thread(context.__exit__, None, None, None)

    return outage


def _felt(act: Callable[[World, Random], Broken]) -> Callable[[World, Random], Broken]:
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


PIPELINE = ("workers", "redis", "redis-link", "kafka", "kafka-link")
"""Parts that alerts pass through: a fault in them can lose or duplicate one."""
FORGETFUL = ("redis-truncated", "redis-flushed", "redis-failover")
"""Faults after which Redis has lost data."""
CLUSTER = "cluster"
"""The part of faults that need a Kubernetes API server."""
DISK = "disk"
"""The part of faults that need a file system of their own."""
FAULTS = {
    "all-workers-killed": Fault("workers", "kill -9 of every worker at once", (0, 3), workers_killed, sweeping=True),
    "workers-rolled": Fault(
        "workers", "SIGTERM to one worker after the other", (0, 0), workers_rolled, sweeping=True, takes=8
    ),
    "worker-killed": Fault("workers", "kill -9 of a worker", (0, 3), worker_killed),
    "worker-zombie": Fault(
        "workers", "SIGSTOP of a worker, SIGCONT after its session", (SESSION + 1, SESSION + 5), worker_frozen
    ),
    "worker-nap": Fault(
        "workers", "SIGSTOP of a worker, SIGCONT within its session", (SESSION / 2, SESSION - 0.5), worker_frozen
    ),
    "worker-added": Fault("workers", "a worker added, then removed", (2, 5), worker_added),
    "redis-killed": Fault("redis", "kill -9 of Redis, back from its append-only file", (0, 8), redis_killed),
    "redis-truncated": Fault(
        "redis", "kill -9 of Redis, and the end of its append-only file lost", (0, 3), redis_truncated
    ),
    "redis-flushed": Fault("redis", "`FLUSHALL`", (0, 0), redis_flushed),
    "redis-paused": Fault("redis", "`CLIENT PAUSE`", (0, 0), redis_paused, takes=1),
    "redis-asleep": Fault("redis", "`DEBUG SLEEP`", (0, 0), redis_asleep, takes=1),
    "redis-full": Fault("redis", "`maxmemory` shrunk below what is used", (3, 8), redis_full),
    "redis-scripts": Fault("redis", "`SCRIPT FLUSH`", (0, 0), redis_forgot_scripts),
    "redis-failover": Fault(
        "redis", "failover to a replica without the last writes", (0, 0), redis_failed_over, takes=1
    ),
    "kafka-killed": Fault(
        "kafka", "kill -9 of every broker and of the controller", (0, 5), kafka_killed, settles=_settled
    ),
    "kafka-frozen": Fault(
        "kafka", "SIGSTOP of every broker and of the controller", (3, 12), kafka_frozen, settles=_settled
    ),
    "broker-killed": Fault(
        "kafka",
        "kill -9 of a broker: its partitions and groups move to the other, and back",
        (4, 9),
        broker_killed,
        settles=_settled,
    ),
    "broker-restarted": Fault(
        "kafka",
        "SIGTERM of a broker: its partitions and groups are handed over, and move back",
        (0, 4),
        broker_restarted,
        takes=2,
        settles=_settled,
    ),
    "broker-frozen": Fault(
        "kafka",
        "SIGSTOP of a broker until the other has taken over, then SIGCONT",
        (6, 20),
        broker_frozen,
        settles=_settled,
    ),
    "alerts-partition": Fault(
        "kafka", "one more partition for `alerts`", (0, 0), alerts_partition_added, settles=_alerts_partition_read
    ),
    "keyed-partition": Fault("kafka", "one more partition for `alerts-by-fingerprint`", (0, 0), keyed_partition_added),
    "storms-partition": Fault("kafka", "one more partition for `storms`", (0, 0), storms_partition_added),
    "kafka-cut": Fault("kafka-link", "Kafka's connections cut", (1, 10), _cut(_kafka)),
    "kafka-mute": Fault("kafka-link", "Kafka's connections drop everything", (2, 10), _poisoned(_kafka, "timeout")),
    "kafka-reset": Fault(
        "kafka-link", "Kafka's connections reset after a moment", (2, 8), _poisoned(_kafka, "reset_peer", timeout=300)
    ),
    "kafka-slow": Fault(
        "kafka-link", "Kafka's connections slow", (4, 10), _poisoned(_kafka, "latency", latency=500, jitter=400)
    ),
    "kafka-narrow": Fault(
        "kafka-link", "Kafka's connections narrow", (4, 10), _poisoned(_kafka, "bandwidth", rate=NARROW)
    ),
    "kafka-late": Fault("kafka-link", "Kafka's responses later than the grace", (5, 8), answers_late),
    "redis-cut": Fault("redis-link", "Redis' connections cut", (1, 10), _cut(_redis)),
    "redis-mute": Fault("redis-link", "Redis' connections drop everything", (2, 10), _poisoned(_redis, "timeout")),
    "redis-reset": Fault(
        "redis-link", "Redis' connections reset after a moment", (2, 8), _poisoned(_redis, "reset_peer", timeout=300)
    ),
    "redis-slow": Fault(
        "redis-link", "Redis' connections slow", (4, 10), _poisoned(_redis, "latency", latency=500, jitter=400)
    ),
    "clocks-skewed": Fault("producers", "producers' clocks wrong, within the grace and beyond", (4, 8), clocks_skewed),
    "disk-full": Fault(DISK, "disk of the directory sink full", (3, 10), disk_full),
    "api-killed": Fault(CLUSTER, "kill -9 of the API server", (0, 10), _outage(away)),
    "api-storeless": Fault(CLUSTER, "kill -9 of the API server's store", (2, 10), _outage(storeless)),
    "api-429": Fault(CLUSTER, "the API server answers 429", (3, 10), _outage(saturated)),
    "api-500": Fault(CLUSTER, "the API server answers 500", (3, 10), _outage(failing)),
    "api-cut": Fault(CLUSTER, "the API server's connections cut", (2, 10), _felt(_cut(_api))),
    "api-mute": Fault(
        CLUSTER,
        "the API server's connections drop everything, until requests time out",
        (0, 4),
        _felt(_poisoned(_api, "timeout")),
        takes=REQUEST_SECONDS,
    ),
    "api-slow": Fault(
        CLUSTER, "the API server's connections slow", (4, 10), _poisoned(_api, "latency", latency=500, jitter=400)
    ),
    "rbac-revoked": Fault(CLUSTER, "the worker's role unbound, and bound again", (3, 10), _outage(forbidden)),
    "namespace-deleted": Fault(CLUSTER, "the namespace deleted and created again", (3, 10), namespace_deleted),
    "crd-removed": Fault(CLUSTER, "the definition removed and restored", (3, 10), definition_removed, sweeping=True),
}
