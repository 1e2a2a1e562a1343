"""Bad days: workers, Redis and Kafka die, freeze and forget while alerts are under way; the storms are the same."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis.asyncio import Redis

from stormfold.config import Config, load
from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import create
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.redis import EmbeddedRedis
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from tests.support.pipeline import (
    Sent,
    Workers,
    alert,
    assert_balanced,
    batch_model,
    drained,
    essence,
    keyed_model,
    publish,
    record,
    storms,
)
from tests.support.servers import until

Place = tuple[Settings, EmbeddedRedis]

ALERTS = 24_000
SMALL_POLLS = {"max_poll_records": "40"}
"""Many polls, so that a fault has many places to strike."""
TINY_POLLS = {"max_poll_records": "2"}
"""So many that five workers in turn don't come to the end."""
SESSION = 6.0
"""The shortest session timeout that the broker allows, in seconds."""


@pytest.fixture
async def place(kafka: EmbeddedKafka, tmp_path: Path) -> AsyncIterator[Place]:
    """Topics of the test's own, and a Redis of its own, to be broken."""
    server = EmbeddedRedis(tmp_path / "redis")
    await asyncio.to_thread(server.start)
    name = f"f{time.time_ns()}"
    settings = Settings(
        kafka_bootstrap_servers=kafka.bootstrap, redis_url=server.url, http_address="127.0.0.1:0",
        session_timeout=SESSION, delivery_timeout=5, close_lease=15, group_prefix=name, redis_prefix=name,
        alerts_topic=f"{name}-alerts", keyed_topic=f"{name}-keyed",
        storms_topic=f"{name}-storms", alerts_dlq_topic=f"{name}-dead", storms_dlq_topic=f"{name}-storms-dlq",
    )  # fmt: skip
    async with open_admin(settings) as admin:
        await create(admin, wanted_topics(settings, 3, past=True, max_record=2_000_000))
    yield settings, server
    await asyncio.to_thread(server.stop)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """Windows small enough that a run has many storms."""
    path = tmp_path / "stormfold.yaml"
    path.write_text("windows: {gap: 2s, grace: 1s, slice: 10s}\n")
    return path


def incident(seed: int, count: int = ALERTS) -> list[tuple[int, int, list[dict[str, Any]]]]:
    """(time, partition, alerts of the record) in order of time: floods, drips, resolutions, records of many."""
    rng = random.Random(seed)
    now = (time.time_ns() // 1_000_000) - 7_200_000
    result, made = [], 0
    while made < count:
        now += rng.choice((1, 2, 5, 20, 20, 400)) if rng.random() > 0.001 else rng.randint(1_500, 5_000)
        many = rng.choice((1, 1, 1, 1, 25))
        alerts = [
            alert(
                f"Group{min(int(rng.paretovariate(0.7)), 60)}",
                pod=f"pod-{rng.randrange(40)}",
                resolved=rng.random() < 0.2,
            )
            for _ in range(many)
        ]
        result.append((now, rng.randrange(3), alerts))
        made += many
    return result


async def load_topic(settings: Settings, config: Config, seed: int, count: int = ALERTS) -> dict[str, Any]:
    """Publishes an incident that is over; returns its storms as one plain computation has them."""
    made = incident(seed, count)
    # Padded, for a fetch brings a MiB of a partition, and small polls take one partition's after the other's: without,
    # hardly a storm would close before all was read.
    await publish(settings, [Sent(at, record(*alerts).ljust(10_000), partition) for at, partition, alerts in made])
    return batch_model(config, [(at, one) for at, _, alerts in made for one in alerts])


async def proven(settings: Settings, config_file: Path, model: dict[str, Any], seconds: float = 60.0) -> None:
    """The books balance, and the storms are those of the model: names, counts, members, times."""
    books = await drained(settings, config_file, seconds)
    assert_balanced(books)
    published = {name: essence(storm) for name, storm in (await storms(settings)).items()}
    assert published == model


class Reached(NamedTuple):
    """How far the workers have come."""

    folded: int
    """Records of the keyed topic, all partitions together."""
    closed: int
    """Storms that were published."""


async def reached(settings: Settings) -> Reached:
    """What Redis and the topic of storms say now."""
    async with connect(settings) as redis:
        state = await Store(redis, settings.redis_prefix).load()
    folded = 0 if state is None else sum(position.offset for position in state.positions.values())
    return Reached(folded, len(await storms(settings)))


async def beyond(settings: Settings, before: Reached, closing: bool) -> Reached:
    """Waits until more is folded than before, with `closing` more storms closed too; returns how far it is then."""

    async def more() -> Reached | None:
        now = await reached(settings)
        return now if now.folded > before.folded and (now.closed > before.closed or not closing) else None

    found: Reached = await until(more, what=f"more is folded{' and closed' if closing else ''} than {before}")
    return found


async def begun(settings: Settings, model: dict[str, Any]) -> None:
    """Waits until something is folded, or all of the model's storms are closed already: a worker can be that fast."""
    async with Redis.from_url(settings.redis_url) as redis:

        async def folded() -> bool:
            return bool(await redis.keys(f"{settings.redis_prefix}:*:b:*")) or len(await storms(settings)) == len(model)

        await until(folded, what="something is folded")


async def live(settings: Settings, seconds: float, seed: int) -> int:
    """Publishes alerts as they happen; returns how many."""
    rng = random.Random(seed)
    until_then, sent = time.time() + seconds, 0
    while (now := time.time()) < until_then:
        # Every group is silent now and then, so that storms close while others are open.
        awake = [n for n in range(12) if int(now / 3 + n) % 3]
        made = [alert(f"Live{rng.choice(awake)}", pod=f"pod-{rng.randrange(40)}") for _ in range(60)]
        at = int(now * 1000)
        await publish(settings, [Sent(at, record(one), rng.randrange(3)) for one in made])
        sent += len(made)
        await asyncio.sleep(0.05)
    return sent


async def proven_live(settings: Settings, config_file: Path, sent: int) -> None:
    """The books balance over what was sent, and the storms are those that the keyed log decides."""
    books = await drained(settings, config_file)
    assert_balanced(books, alerts=sent)
    published = {name: essence(storm) for name, storm in (await storms(settings)).items()}
    assert published == await keyed_model(settings, load(config_file))


async def test_flushed_while_closing(place: Place, config_file: Path, tmp_path: Path) -> None:
    """FLUSHALL after storms were closed and published: the epoch is rebuilt from C, nothing comes out twice."""
    settings, _ = place
    with Workers(settings, tmp_path, config_file) as workers:
        workers.start()
        publishing = asyncio.ensure_future(live(settings, 24.0, 10))
        async with Redis.from_url(settings.redis_url) as redis:
            for wait in (12.0, 3.0, 5.0):
                await asyncio.sleep(wait)
                await redis.flushall()
        await proven_live(settings, config_file, await publishing)
        rebuilt = [line for line in workers.logs().splitlines() if "opened an epoch" in line][1:]
        assert len(rebuilt) == 3 and not any("closed=None" in line for line in rebuilt)


async def test_workers_killed_live(place: Place, config_file: Path, tmp_path: Path) -> None:
    """Two workers, one or the other killed with -9 every few seconds while alerts come in and storms close."""
    settings, _ = place
    with Workers(settings, tmp_path, config_file) as workers:
        pair = [workers.start(), workers.start()]
        publishing = asyncio.ensure_future(live(settings, 24.0, 11))
        for turn in range(5):
            await asyncio.sleep(4.3)
            pair[turn % 2].kill()
            pair[turn % 2] = workers.start()
        await proven_live(settings, config_file, await publishing)


@pytest.mark.parametrize("seed", [1, 2])
async def test_killed_workers(place: Place, config_file: Path, tmp_path: Path, seed: int) -> None:
    """Workers killed with -9 at random moments lose nothing and count nothing twice.

    Each has folded something when it is killed, and some have closed storms.
    """
    settings, _ = place
    rng = random.Random(seed)
    model = await load_topic(settings, load(config_file), seed)
    kills = [Reached(0, 0)]
    with Workers(settings, tmp_path, config_file) as workers:
        for turn in range(5):
            worker = workers.start(**TINY_POLLS)
            await beyond(settings, kills[-1], closing=turn >= 3)
            await asyncio.sleep(rng.uniform(0.0, 0.5))
            worker.kill()
            worker.wait()
            kills.append(await reached(settings))
        assert all(now.folded > before.folded for before, now in pairwise(kills)), kills
        assert 0 < kills[-2].closed < kills[-1].closed, kills
        workers.start()
        await proven(settings, config_file, model)


async def test_workers_come_and_go(place: Place, config_file: Path, tmp_path: Path) -> None:
    """A second worker joins in mid-batch, the first is stopped, another is killed: the storms are the same."""
    settings, _ = place
    model = await load_topic(settings, load(config_file), 3)
    with Workers(settings, tmp_path, config_file) as workers:
        first = workers.start(**SMALL_POLLS)
        await begun(settings, model)
        second = workers.start(**SMALL_POLLS)
        await asyncio.sleep(2.0)
        first.terminate()
        assert await asyncio.to_thread(first.wait, 10) == 0
        third = workers.start(**SMALL_POLLS)
        await asyncio.sleep(2.0)
        second.kill()
        await proven(settings, config_file, model)
        assert third.poll() is None


async def test_zombie(place: Place, config_file: Path, tmp_path: Path) -> None:
    """A worker frozen for longer than its session, then woken, changes nothing."""
    settings, _ = place
    model = await load_topic(settings, load(config_file), 4)
    with Workers(settings, tmp_path, config_file) as workers:
        zombie = workers.start(**SMALL_POLLS)
        await begun(settings, model)
        zombie.send_signal(signal.SIGSTOP)
        workers.start(**SMALL_POLLS)
        await asyncio.sleep(SESSION + 3.0)
        zombie.send_signal(signal.SIGCONT)
        await proven(settings, config_file, model)
        assert zombie.poll() is None


async def test_redis_restarted(place: Place, config_file: Path, tmp_path: Path) -> None:
    """Redis killed with -9 and restarted from its append-only file, twice: the storms are the same."""
    settings, server = place
    model = await load_topic(settings, load(config_file), 5)
    with Workers(settings, tmp_path, config_file) as workers:
        workers.start(**SMALL_POLLS)
        for _ in range(2):
            await begun(settings, model)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(1.0)
            await asyncio.to_thread(server.start)
        await proven(settings, config_file, model)


async def test_redis_flushed(place: Place, config_file: Path, tmp_path: Path) -> None:
    """FLUSHALL while storms are open, again and again: what was closed comes again as it was, the rest is rebuilt.

    The first two times nothing is closed, then something, then more.
    """
    settings, _ = place
    model = await load_topic(settings, load(config_file), 6)
    flushed: list[Reached] = []
    with Workers(settings, tmp_path, config_file) as workers:
        workers.start(**TINY_POLLS)
        async with Redis.from_url(settings.redis_url) as redis:
            for turn in range(4):
                before = Reached(0, flushed[-1].closed if flushed else 0)
                flushed.append(await beyond(settings, before, closing=turn >= 2))
                await redis.flushall()
        assert 0 < flushed[-2].closed < len(model), flushed
        await proven(settings, config_file, model)


async def test_redis_full(place: Place, config_file: Path, tmp_path: Path) -> None:
    """While Redis is full, fold waits and lag grows; with room again everything comes out."""
    settings, _ = place
    model = await load_topic(settings, load(config_file), 7)
    with Workers(settings, tmp_path, config_file) as workers:
        async with Redis.from_url(settings.redis_url) as redis:
            workers.start(**SMALL_POLLS)
            await begun(settings, model)
            await redis.config_set("maxmemory", "1mb")
            await until(lambda: "Redis is full" in workers.logs(), what="fold is refused")
            await redis.config_set("maxmemory", "512mb")
            await proven(settings, config_file, model)


async def test_redis_slow_and_gone(place: Place, config_file: Path, tmp_path: Path) -> None:
    """Redis paused for 4 s, then gone for 12 s, longer than its time-outs: lag grows, nothing is lost."""
    settings, server = place
    model = await load_topic(settings, load(config_file), 8)
    with Workers(settings, tmp_path, config_file) as workers:
        workers.start(**SMALL_POLLS)
        await begun(settings, model)
        async with Redis.from_url(settings.redis_url) as redis:
            await redis.client_pause(4000)
        await asyncio.sleep(4.5)
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(12.0)
        await asyncio.to_thread(server.start)
        await proven(settings, config_file, model)


async def test_kafka_restarted(kafka: EmbeddedKafka, place: Place, config_file: Path, tmp_path: Path) -> None:
    """The broker killed with -9 and restarted while alerts are under way: the storms are the same."""
    settings, _ = place
    model = await load_topic(settings, load(config_file), 9)
    with Workers(settings, tmp_path, config_file) as workers:
        workers.start(**SMALL_POLLS)
        await begun(settings, model)
        await asyncio.to_thread(kafka.kill)
        await asyncio.sleep(2.0)
        await asyncio.to_thread(kafka.start)
        await proven(settings, config_file, model, seconds=90.0)
