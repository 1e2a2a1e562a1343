"""The faults: each breaks something real when it is entered, and puts it right again when it is left."""

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
from stormfold.stages.emit import BACKOFF_MOST
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
"""Asked while a fault is still there: whether it struck anything. None where it cannot but strike."""
Broken = AbstractAsyncContextManager[Proof | None]

HEALTHY = 0.09
"""Seconds within which a server answers through a way that nothing is wrong with: less than any latency added here."""
NARROW = 5
"""Kilobytes a second that a narrow connection lets through: less than half of what a stage reads or writes by one. What
takes longer is passed on in pieces of a tenth of a second, so that already the first one comes late."""
READY = 120.0
"""Seconds that a new worker has to get ready, while something else may be broken."""
FORGIVEN = 10_000
"""Milliseconds after Redis has room again until no worker takes it for full any more, also one that was frozen."""


class Fault(NamedTuple):
    """Something that goes wrong. Entered it gives its proof, if it has one."""

    part: str
    """What it is about. Two faults at once are about different parts."""
    what: str
    """As the table says it."""
    seconds: tuple[float, float]
    """How long it lasts, from and to."""
    act: Callable[[World, Random], Broken]
    sweeping: bool = False
    """It spares no worker, or no resource. So it is tried first, alone and with others: after that one worker lives as
    long as the run, and resources pile up."""
    takes: float = 0.0
    """Seconds, about, that it goes on for by itself, whatever its length."""
    settles: Callable[[World], Coroutine[Any, Any, None]] | None = None
    """What is waited for once it was put right, before the next turn; the pipeline recovers meanwhile."""


async def _always(struck: bool) -> bool:
    return struck


def _known(struck: bool) -> Proof:
    """What was seen when it struck."""
    return lambda: _always(struck)


async def _counts(slots: Callable[[], Sequence[Slot]], metric: str) -> Proof:
    """Struck if some worker counts more of it than now. Of one that does not answer now nobody can say."""
    before = {slot.http: await slot.told(metric) for slot in slots()}

    async def more(slot: Slot) -> bool:
        then, now = before.get(slot.http, 0.0), await slot.told(metric)
        return then is not None and now is not None and now > then

    async def proof() -> bool:
        return any([await more(slot) for slot in slots()])

    return proof


def _stopped(*pids: int) -> Proof:
    """Struck if none of the processes runs."""
    stats = [Path(f"/proc/{pid}/stat") for pid in pids]
    return lambda: _always(all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats))


def _unwell(proxies: Sequence[Proxy], question: bytes) -> Proof:
    """Struck if no server answers as usual by these ways."""

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
    slots = world.everybody
    for slot in slots:
        await world.end(slot, signal.SIGKILL)
    yield None
    for slot in slots:
        world.start(slot)


@asynccontextmanager
async def workers_rolled(world: World, _: Random) -> AsyncIterator[Proof | None]:
    for slot in world.everybody:
        await world.end(slot, signal.SIGTERM)
        world.start(slot)
        await until(slot.ready, READY, "the new worker is ready")
    yield None


@asynccontextmanager
async def worker_frozen(world: World, rng: Random) -> AsyncIterator[Proof | None]:
    process = rng.choice(world.everybody).process
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
    # Before version 7 it is a single file; since then the newest of several that end so is the one in use.
    log = max(world.redis.data_dir.rglob("*.aof"), key=lambda path: (path.stat().st_mtime, "incr" in path.name))
    size = log.stat().st_size
    kept = size - min(size // 2, rng.randrange(2_000_000))
    with log.open("rb") as file:
        file.seek(kept)
        # A position that fold had come to is in what goes.
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
    refused = await _counts(lambda: world.staffed, "stormfold_redis_oom_rejections_total")
    async with Redis.from_url(world.redis.url) as redis:
        folded = await _watermark(redis, world)
        await redis.config_set("maxmemory", "1mb")
    yield refused
    async with Redis.from_url(world.redis.url) as redis:
        await redis.config_set("maxmemory", "512mb")
    world.crowded.append((folded, time.time_ns() // 1_000_000 + FORGIVEN))


async def _watermark(redis: Redis, world: World) -> int:
    """Event time (ms) before which all is folded. Without a horizon every storm so far would be excused."""
    store = Store(redis, world.settings.redis_prefix)

    async def horizon() -> int | None:
        epoch = await store.epoch()
        return (await store.clock(epoch)).horizon if epoch else None

    return int(await until(horizon, 60, "there is a horizon")) - world.config.windows.grace


async def _reached(redis: Redis, world: World) -> int:
    """Sum of fold's positions, as this Redis has them."""
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
        await until(lambda: _in_step(redis), 30, "the replica has all")
        # What is written from here on is gone with the old one.
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
    """A broker that coordinates some of the workers' groups does not do so, nor lead, until it is back."""
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
    """Leaders and coordinators are where they belong: a fault that moves them has to find them there."""

    async def all_settled() -> bool:
        with suppress(KafkaError, OSError):
            return all([await settled(broker) for broker in world.kafka.brokers])
        return False

    await until(all_settled, 60, "leaders are where they belong")


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

        async def there() -> bool:
            return (await partition_counts(admin))[topic] > count

        await until(there, 30, f"{topic} has a partition more")
    return count


@asynccontextmanager
async def alerts_partition_added(world: World, _: Random) -> AsyncIterator[Proof | None]:
    world.producer.partitions = await _add_partition(world, world.settings.alerts_topic) + 1
    yield None


async def _alerts_partition_read(world: World) -> None:
    """What the partition that was added last gets is read: from then on its alerts are as punctual as others."""
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
"""Of each worker that there mostly is and that needs servers of a kind: its ways to each of them."""


def _hit(world: World, rng: Random, ways: Ways) -> list[Proxy]:
    """The ways of one worker or of all, to one of the servers or to all: others reach it, or it reaches others."""
    workers = ways(world)
    servers = list(zip(*rng.choice(([rng.choice(workers)], workers)), strict=True))
    return [way for server in rng.choice(([rng.choice(servers)], servers)) for way in server]


def _cut(ways: Ways) -> Callable[[World, Random], Broken]:
    @asynccontextmanager
    async def cut(world: World, rng: Random) -> AsyncIterator[Proof | None]:
        proxies = _hit(world, rng, ways)
        await asyncio.gather(*(proxy.cut() for proxy in proxies))
        yield _unwell(proxies, QUESTIONS[ways])
        await asyncio.gather(*(proxy.mend() for proxy in proxies))

    return cut


def _poisoned(ways: Ways, kind: str, **attributes: int) -> Callable[[World, Random], Broken]:
    @asynccontextmanager
    async def poisoned(world: World, rng: Random) -> AsyncIterator[Proof | None]:
        stream = rng.choice(("upstream", "downstream"))
        proxies = _hit(world, rng, ways)
        await asyncio.gather(*(proxy.poison(kind, stream, **attributes) for proxy in proxies))
        yield _unwell(proxies, QUESTIONS[ways])
        await asyncio.gather(*(proxy.mend() for proxy in proxies))

    return poisoned


@asynccontextmanager
async def answers_late(world: World, _: Random) -> AsyncIterator[Proof | None]:
    proxies = [way for worker in _kafka(world) for way in worker]
    await asyncio.gather(*(proxy.poison("latency", latency=world.config.windows.grace + 500) for proxy in proxies))
    yield _unwell(proxies, QUESTIONS[_kafka])
    await asyncio.gather(*(proxy.mend() for proxy in proxies))


def _kafka(world: World) -> Sequence[Sequence[Proxy]]:
    return [slot.kafka for slot in [*world.usual, *world.emitters]]


def _redis(world: World) -> Sequence[Sequence[Proxy]]:
    return [[slot.redis] for slot in world.usual]


def _api(world: World) -> Sequence[Sequence[Proxy]]:
    return [[world.cluster.way]]


QUESTIONS: dict[Ways, bytes] = {
    _redis: b"PING\r\n",
    # The length, then Metadata of version 0, the first correlation, from a client with a long name, about every topic:
    # question and answer are so long that they take their time by a narrow way.
    _kafka: struct.pack(">ihhih1000si", 1014, 3, 0, 0, 1000, b"x" * 1000, 0),
    # It answers that it wants TLS.
    _api: b"GET / HTTP/1.0\r\n\r\n",
}
"""What anybody may ask the server at the end of a way."""


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
NOTICED = max(REQUEST_SECONDS, BACKOFF_MOST) + 5.0
"""Seconds until the worker that writes to the cluster has noticed that it can't: it may be waiting for an answer, or
until it tries again, and then a storm has to come."""


async def _unwritten(world: World) -> Proof:
    """Struck if a storm could not be written to the cluster."""
    return await _counts(lambda: world.emitters, SINK_ERRORS)


async def _noticed(errors: Proof) -> None:
    """Waits until a storm could not be written, but not for ever: there may be none, or nobody to write it."""
    for _ in range(round(NOTICED / 0.5)):
        if await errors():
            break
        await asyncio.sleep(0.5)


@asynccontextmanager
async def disk_full(world: World, _: Random) -> AsyncIterator[Proof | None]:
    filler = world.sink / ".filler"
    errors = await _counts(lambda: world.staffed, SINK_ERRORS)
    await asyncio.to_thread(_fill, filler)
    yield errors
    filler.unlink()


def _fill(filler: Path) -> None:
    with filler.open("wb") as file:
        while (free := os.statvfs(filler.parent)).f_bavail:
            # Workers may take some of it meanwhile.
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
    """Struck if a storm could not be written, whatever the way itself shows."""

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
    # All storms go with their definition: nobody may write one between counting them and that.
    await cluster.way.cut()
    cluster.gone |= await asyncio.to_thread(cluster.server.storms)
    await asyncio.to_thread(cluster.server.uninstall, 300)
    errors = await _unwritten(world)
    await cluster.way.mend()
    await _noticed(errors)
    yield errors
    await asyncio.to_thread(cluster.server.install)


PIPELINE = ("workers", "redis", "redis-link", "kafka", "kafka-link")
"""Parts that alerts pass through: what breaks there can lose or double one."""
FORGETFUL = ("redis-truncated", "redis-flushed", "redis-failover")
"""Redis has lost something."""
CLUSTER = "cluster"
"""Part of the faults that need one."""
DISK = "disk"
"""Part of the faults that need one of their own."""
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
    "worker-added": Fault("workers", "a worker added, and removed again", (2, 5), worker_added),
    "redis-killed": Fault("redis", "kill -9 of Redis, back from its append-only file", (0, 8), redis_killed),
    "redis-truncated": Fault("redis", "the same, the end of that file lost", (0, 3), redis_truncated),
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
    "kafka-frozen": Fault("kafka", "SIGSTOP of all of them", (3, 12), kafka_frozen, settles=_settled),
    "broker-killed": Fault(
        "kafka",
        "kill -9 of a broker: what it led and coordinated moves to the other, and back",
        (4, 9),
        broker_killed,
        settles=_settled,
    ),
    "broker-restarted": Fault(
        "kafka", "SIGTERM of a broker: the same, handed over", (0, 4), broker_restarted, takes=2, settles=_settled
    ),
    "broker-frozen": Fault(
        "kafka",
        "SIGSTOP of a broker until the other has taken over, then SIGCONT",
        (6, 20),
        broker_frozen,
        settles=_settled,
    ),
    "alerts-partition": Fault(
        "kafka", "a partition more for `alerts`", (0, 0), alerts_partition_added, settles=_alerts_partition_read
    ),
    "keyed-partition": Fault("kafka", "a partition more for `alerts-by-fingerprint`", (0, 0), keyed_partition_added),
    "storms-partition": Fault("kafka", "a partition more for `storms`", (0, 0), storms_partition_added),
    "kafka-cut": Fault("kafka-link", "Kafka's connections cut", (1, 10), _cut(_kafka)),
    "kafka-mute": Fault("kafka-link", "Kafka's connections swallow everything", (2, 10), _poisoned(_kafka, "timeout")),
    "kafka-reset": Fault(
        "kafka-link", "Kafka's connections reset after a moment", (2, 8), _poisoned(_kafka, "reset_peer", timeout=300)
    ),
    "kafka-slow": Fault(
        "kafka-link", "Kafka's connections slow", (4, 10), _poisoned(_kafka, "latency", latency=500, jitter=400)
    ),
    "kafka-narrow": Fault(
        "kafka-link", "Kafka's connections let little through", (4, 10), _poisoned(_kafka, "bandwidth", rate=NARROW)
    ),
    "kafka-late": Fault("kafka-link", "Kafka's answers come later than the grace allows", (5, 8), answers_late),
    "redis-cut": Fault("redis-link", "Redis' connections cut", (1, 10), _cut(_redis)),
    "redis-mute": Fault("redis-link", "Redis' connections swallow everything", (2, 10), _poisoned(_redis, "timeout")),
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
        "the API server's connections swallow everything, until requests are given up",
        (0, 4),
        _felt(_poisoned(_api, "timeout")),
        takes=REQUEST_SECONDS,
    ),
    "api-slow": Fault(
        CLUSTER, "the API server's connections slow", (4, 10), _poisoned(_api, "latency", latency=500, jitter=400)
    ),
    "rbac-revoked": Fault(CLUSTER, "the worker's role unbound, and bound again", (3, 10), _outage(forbidden)),
    "namespace-deleted": Fault(CLUSTER, "the namespace deleted and created anew", (3, 10), namespace_deleted),
    "crd-removed": Fault(CLUSTER, "the definition removed and restored", (3, 10), definition_removed, sweeping=True),
}
