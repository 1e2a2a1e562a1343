"""A leader that is new does not know at once how much of what it has its predecessor had acknowledged."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic

from stormfold.config import load
from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import topics
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings
from tests.chaos.brokers import BROKERS, Cluster, coordinated_by_one, end_error, freeze, prefer, thaw
from tests.support.pipeline import (
    Sent,
    Workers,
    alert,
    assert_balanced,
    drained,
    essence,
    keyed_alerts,
    keyed_model,
    publish,
    record,
)
from tests.support.pipeline import storms as published_storms
from tests.support.servers import until

PARTITIONS = 4
LEADER_NOT_AVAILABLE = 5
STAGES = ("intake", "fold")
SILENT = 12.0
"""Seconds: far more than the grace, and until every client has found the new leader and read from it."""


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Two brokers, of which a silent one is taken for alive, and for in sync, for longer than the test lasts."""
    properties = {
        "broker.session.timeout.ms": "60000",
        "replica.lag.time.max.ms": "60000",
        "offsets.topic.replication.factor": "1",
    }
    kafka = Cluster(tmp_path / "kafka", [[]] * BROKERS, properties)
    async with AsyncExitStack() as stack:
        for server in kafka.servers:
            stack.push_async_callback(asyncio.to_thread, server.kill)
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in kafka.servers))
        yield kafka


async def test_what_was_acknowledged_and_is_not_shown(
    cluster: Cluster, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """Until the follower has asked it, the new leader answers as if the last records were not there. Nobody may take
    that for the end, or they would be late when they are."""
    settings, rest = await coordinated_by_one(cluster, redis_server.url, STAGES)
    leader = cluster.rest(rest)
    config = tmp_path / "stormfold.yaml"
    config.write_text("windows: {gap: 2s, grace: 2s, slice: 10s}\n")
    await create(settings, leader, rest)
    with Workers(settings, tmp_path, config) as workers:
        worker = workers.start()
        await happen(settings, "Before")

        async def closed() -> bool:
            return bool(await published_storms(settings))

        await until(closed, 60, "a storm is published")
        # It must not get them before the leader is gone: it stands still until what it asked for has been answered.
        worker.send_signal(signal.SIGSTOP)
        await asyncio.sleep(1)
        await happen(settings, "During")
        freeze(cluster.broker(leader))
        worker.send_signal(signal.SIGCONT)
        try:
            await prefer(cluster.broker(rest), settings.alerts_topic, 0, [rest, leader])

            async def unsure() -> bool:
                code = await end_error(cluster.broker(rest), settings.alerts_topic, 0)
                return code == LEADER_NOT_AVAILABLE

            await until(unsure, 10, "another one leads, and does not know how far")
            await asyncio.sleep(SILENT)
            assert await unsure()
        finally:
            thaw(cluster.broker(leader))
        books = await drained(settings, config)
    assert_balanced(books, alerts=60)
    assert not [found async for found in keyed_alerts(settings) if found.late]
    found = await published_storms(settings)
    assert {name: essence(storm) for name, storm in found.items()} == await keyed_model(settings, load(config))


async def create(settings: Settings, leader: int, rest: int) -> None:
    """Creates the topics: one partition of `alerts`, which the other broker follows; that one has all else alone."""
    async with open_admin(settings) as admin:
        await admin.create_topics(
            [
                NewTopic(
                    topic.name, -1, -1,
                    {0: [leader, rest]} if topic.name == settings.alerts_topic
                    else {partition: [rest] for partition in range(PARTITIONS)},
                    {setting.name: setting.value for setting in topic.settings},
                )
                for topic in topics(settings, PARTITIONS, past=True)
            ]
        )  # fmt: skip


async def happen(settings: Settings, name: str) -> None:
    """Thirty alerts, now, acknowledged by both brokers."""
    now = time.time_ns() // 1_000_000
    await publish(settings, [Sent(now, record(alert(name, pod=f"pod-{n}"))) for n in range(30)])
