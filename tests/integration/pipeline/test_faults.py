"""Workers, Redis and Kafka are killed, frozen and emptied while alerts arrive: the aggregates stay the same."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis.asyncio import Redis

from stormfold.kafka.client import open_admin
from stormfold.kafka.committed import newest_closed_before, newest_metadata, read_committed
from stormfold.kafka.topics import create
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.redis import EmbeddedRedis
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from tests.integration.kafka.test_lifecycle_log import logged
from tests.support.alerts import Sent, alert, record
from tests.support.model import Counts
from tests.support.pipeline import Pipeline, publish_live
from tests.support.servers import PARTITIONS, fresh_settings, until
from tests.support.workers import Workers, stop

ALERTS = 24_000
SMALL_POLLS = {"max_poll_records": "40"}
"""Makes many polls, so that a fault can strike at many points."""
TINY_POLLS = {"max_poll_records": "2"}
"""Makes enough polls that five workers in turn do not reach the end."""
SESSION = 6.0
"""The shortest session timeout (s) that the broker of the test run allows."""


@pytest.fixture
async def pipeline(kafka: EmbeddedKafka, own_redis: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[Pipeline]:
    """A pipeline with short windows, and with a Redis that the test may break."""
    settings = fresh_settings(kafka, own_redis, session_timeout=SESSION, delivery_timeout=5, close_lease=15)
    async with open_admin(settings) as admin:
        await create(admin, wanted_topics(settings, PARTITIONS, producer_timestamps=True, max_record=2_000_000))
    with Workers(settings, tmp_path) as workers:
        made = Pipeline(settings, workers)
        made.configure()
        yield made


@pytest.fixture
async def client(own_redis: EmbeddedRedis) -> AsyncIterator[Redis]:
    """A client of this Redis."""
    async with Redis.from_url(own_redis.url) as client:
        yield client


def incident(seed: int, count: int = ALERTS) -> list[tuple[int, int, list[dict[str, Any]]]]:
    """Returns (time, partition, alerts of the record) in order of time: floods, drips, resolutions, records of many."""
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


async def publish_incident(pipeline: Pipeline, seed: int) -> dict[str, Counts]:
    """Publishes an incident that is over; returns the aggregates that it must make."""
    made = incident(seed)
    # A fetch brings up to 1 MiB of a partition, and small polls drain one partition after the other. Without the
    # padding almost all alerts would be read before the first session closes.
    await pipeline.publish(Sent(at, record(*alerts).ljust(10_000), partition) for at, partition, alerts in made)
    return pipeline.model((at, one) for at, _, alerts in made for one in alerts)


class Reached(NamedTuple):
    """How far the workers have come."""

    folded: int
    """Records of the keyed topic, over all partitions."""
    closed: int
    """Published aggregates."""


async def reached(pipeline: Pipeline) -> Reached:
    """Reads from Redis and from `storms` how far the workers have come."""
    async with connect(pipeline.settings) as redis:
        state = await Store(redis, pipeline.settings.redis_prefix).load()
    folded = 0 if state is None else sum(position.offset for position in state.positions.values())
    return Reached(folded, len(await pipeline.aggregates()))


async def beyond(pipeline: Pipeline, before: Reached, closing: bool) -> Reached:
    """Waits until more is folded than before and, if `closing`, more is closed; returns how far the workers are."""

    async def more() -> Reached | None:
        now = await reached(pipeline)
        return now if now.folded > before.folded and (now.closed > before.closed or not closing) else None

    # A new worker starts, and joins when the session of the one before has ended.
    found: Reached = await until(more, 120, f"more is folded{' and closed' if closing else ''} than {before}")
    return found


async def closed_more(pipeline: Pipeline, version: int, closed: int) -> tuple[int, int]:
    """Waits for a C in a commit of a newer state version and for more published aggregates; returns both numbers."""
    settings = pipeline.settings

    async def more() -> tuple[int, int] | None:
        committed = await read_committed(settings, settings.consumer_group("fold"), settings.keyed_topic)
        newest, published = newest_metadata(committed).state_version, len(await pipeline.aggregates())
        has_c = newest_closed_before(committed) is not None
        return (newest, published) if has_c and newest > version and published > closed else None

    found: tuple[int, int] = await until(more, 60, f"{version} is rebuilt, and more than {closed} are closed")
    return found


async def begun(pipeline: Pipeline, model: dict[str, Counts]) -> None:
    """Waits until something is folded, or everything is closed already, because a worker can be that fast."""
    buckets = f"{pipeline.settings.redis_prefix}:*:b:*"
    # A new client each time, because tests kill its server.
    async with Redis.from_url(pipeline.settings.redis_url) as client:

        async def folded() -> bool:
            return bool(await client.keys(buckets)) or len(await pipeline.aggregates()) == len(model)

        await until(folded, what="something is folded")


async def test_a_flushed_redis_is_rebuilt_and_no_closed_aggregate_is_published_again(
    pipeline: Pipeline, client: Redis
) -> None:
    """FLUSHALL three times after aggregates were closed; each rebuild starts from C."""
    pipeline.start()
    flushed = asyncio.Event()

    async def publish() -> int:
        sent = 0
        for seed in count(10):
            sent += await publish_live(pipeline.settings, 1.0, seed)
            if flushed.is_set():
                break
        return sent

    publishing = asyncio.ensure_future(publish())
    version, closed = await closed_more(pipeline, 0, 0)
    for _ in range(3):
        await client.flushall()
        version, closed = await closed_more(pipeline, version, closed)
    flushed.set()
    await pipeline.assert_keyed_model(alerts=await publishing)
    first, *rebuilt = logged(pipeline.workers.folder / "worker-0.log", "opened a state version")
    assert first["closed_before"] is None
    assert len(rebuilt) == 3 and all(line["closed_before"] is not None for line in rebuilt)


async def test_workers_killed_while_alerts_arrive_lose_nothing(pipeline: Pipeline) -> None:
    """Of two workers, one is killed with SIGKILL every few seconds while alerts arrive and sessions close."""
    pair = [pipeline.start(), pipeline.start()]
    publishing = asyncio.ensure_future(publish_live(pipeline.settings, 24.0, 11))
    for turn in range(5):
        await asyncio.sleep(4.3)
        pair[turn % 2].kill()
        pair[turn % 2] = pipeline.start()
    await pipeline.assert_keyed_model(alerts=await publishing)


@pytest.mark.parametrize("seed", [1, 2])
async def test_workers_killed_at_random_moments_count_nothing_twice(pipeline: Pipeline, seed: int) -> None:
    """Each worker has folded something when it is killed, and some have closed aggregates."""
    rng = random.Random(seed)
    model = await publish_incident(pipeline, seed)
    kills = [Reached(0, 0)]
    for turn in range(5):
        worker = pipeline.start(**TINY_POLLS)
        await beyond(pipeline, kills[-1], closing=turn >= 3)
        await asyncio.sleep(rng.uniform(0.0, 0.5))
        worker.kill()
        worker.wait()
        kills.append(await reached(pipeline))
    assert all(now.folded > before.folded for before, now in pairwise(kills)), kills
    assert 0 < kills[-2].closed < kills[-1].closed, kills
    pipeline.start()
    await pipeline.assert_aggregates(model)


async def test_workers_that_join_stop_and_die_in_mid_batch_change_nothing(pipeline: Pipeline) -> None:
    """A second worker joins in mid-batch, the first is stopped, a third joins, the second is killed."""
    model = await publish_incident(pipeline, 3)
    first = pipeline.start(**SMALL_POLLS)
    await begun(pipeline, model)
    second = pipeline.start(**SMALL_POLLS)
    await asyncio.sleep(2.0)
    await stop(first)
    third = pipeline.start(**SMALL_POLLS)
    await asyncio.sleep(2.0)
    second.kill()
    await pipeline.assert_aggregates(model)
    assert third.poll() is None


async def test_a_worker_that_wakes_after_its_session_has_ended_changes_nothing(pipeline: Pipeline) -> None:
    model = await publish_incident(pipeline, 4)
    zombie = pipeline.start(**SMALL_POLLS)
    await begun(pipeline, model)
    zombie.send_signal(signal.SIGSTOP)
    pipeline.start(**SMALL_POLLS)
    await asyncio.sleep(SESSION + 3.0)
    zombie.send_signal(signal.SIGCONT)
    await pipeline.assert_aggregates(model)
    assert zombie.poll() is None


async def test_a_redis_that_is_killed_and_restarted_changes_nothing(
    pipeline: Pipeline, own_redis: EmbeddedRedis
) -> None:
    """Redis is killed with SIGKILL and restarted from its append-only file, twice."""
    model = await publish_incident(pipeline, 5)
    pipeline.start(**SMALL_POLLS)
    for _ in range(2):
        await begun(pipeline, model)
        await asyncio.to_thread(own_redis.kill)
        await asyncio.sleep(1.0)
        await asyncio.to_thread(own_redis.start)
    await pipeline.assert_aggregates(model)


async def test_a_redis_that_is_flushed_again_and_again_changes_nothing(pipeline: Pipeline, client: Redis) -> None:
    """FLUSHALL four times: twice before anything is closed, then after some aggregates, then after more."""
    model = await publish_incident(pipeline, 6)
    flushed: list[Reached] = []
    pipeline.start(**TINY_POLLS)
    for turn in range(4):
        before = Reached(0, flushed[-1].closed if flushed else 0)
        flushed.append(await beyond(pipeline, before, closing=turn >= 2))
        await client.flushall()
    assert 0 < flushed[-2].closed < len(model), flushed
    await pipeline.assert_aggregates(model)


async def test_fold_waits_while_redis_is_full_and_continues_with_room(pipeline: Pipeline, client: Redis) -> None:
    model = await publish_incident(pipeline, 7)
    pipeline.start(**SMALL_POLLS)
    await begun(pipeline, model)
    await client.config_set("maxmemory", "1mb")
    await until(lambda: "Redis is out of memory" in pipeline.logs(), what="fold is refused")
    await client.config_set("maxmemory", "512mb")
    await pipeline.assert_aggregates(model)


async def test_a_redis_that_pauses_and_then_stops_for_longer_than_its_timeouts_loses_nothing(
    pipeline: Pipeline, own_redis: EmbeddedRedis, client: Redis
) -> None:
    """Redis pauses for 4 s, then is stopped for 12 s."""
    model = await publish_incident(pipeline, 8)
    pipeline.start(**SMALL_POLLS)
    await begun(pipeline, model)
    await client.client_pause(4000)
    await asyncio.sleep(4.5)
    await asyncio.to_thread(own_redis.stop)
    await asyncio.sleep(12.0)
    await asyncio.to_thread(own_redis.start)
    await pipeline.assert_aggregates(model)


async def test_a_broker_that_is_killed_and_restarted_changes_nothing(kafka: EmbeddedKafka, pipeline: Pipeline) -> None:
    model = await publish_incident(pipeline, 9)
    pipeline.start(**SMALL_POLLS)
    await begun(pipeline, model)
    await asyncio.to_thread(kafka.kill)
    await asyncio.sleep(2.0)
    await asyncio.to_thread(kafka.start)
    await pipeline.assert_aggregates(model, seconds=90.0)
