"""A broker that is there and says nothing: its machine stands still, or its packets go nowhere."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.config import load
from app.kafka.client import open_admin
from app.kafka.topics import create, topics
from app.local.redis import EmbeddedRedis
from app.settings import Settings
from tests.chaos.brokers import BROKERS, Cluster, coordinators, freeze, thaw
from tests.support.pipeline import Sent, Workers, alert, drained, essence, keyed_model, publish, record, storms
from tests.support.servers import until

PARTITIONS = 4


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Two brokers; how long a silent one is taken for alive is as Kafka has it."""
    kafka = Cluster(tmp_path / "kafka", [[]] * BROKERS, {"broker.session.timeout.ms": "9000"})
    async with AsyncExitStack() as stack:
        for server in kafka.servers:
            stack.push_async_callback(asyncio.to_thread, server.kill)
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in kafka.servers))
        yield kafka


async def happen(settings: Settings, name: str) -> None:
    """Thirty alerts in each partition, now."""
    now = time.time_ns() // 1_000_000
    alerts = [Sent(now, record(alert(name, pod=f"pod-{n}")), n % PARTITIONS) for n in range(30 * PARTITIONS)]
    await publish(settings, alerts)


async def test_silent(cluster: Cluster, redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """What it led and coordinated moves to the other, and storms are closed while it is still silent; in the end each
    alert is in one storm, once."""
    config = tmp_path / "stormfold.yaml"
    config.write_text("windows: {gap: 2s, grace: 2s, slice: 10s}\n")
    settings = Settings(
        kafka=cluster.bootstrap,
        redis=redis_server.url,
        sink="none",
        http="127.0.0.1:0",
        redis_prefix=f"silent{time.time_ns()}",
    )
    groups = [settings.consumer_group(stage) for stage in ("intake", "fold")]
    async with open_admin(settings) as admin:
        await create(admin, topics(settings, PARTITIONS, past=True))
    with Workers(settings, tmp_path, config) as workers:
        workers.start()
        await happen(settings, "Before")
        await until(lambda: storms(settings), what="a storm before")
        before = await coordinators(cluster.brokers[0], groups)
        node = before[groups[1]]
        others = settings.model_copy(update={"kafka": cluster.other(node).bootstrap})
        freeze(cluster.broker(node))
        try:

            async def moved() -> bool:
                now = await coordinators(cluster.other(node), groups)
                return now.keys() == before.keys() and node not in now.values()

            await until(moved, what="coordinators have moved")
            await happen(others, "During")

            async def closed() -> bool:
                return any(storm.group_labels["alertname"] == "During" for storm in (await storms(others)).values())

            await until(closed, 60, "a storm while the broker is silent")
        finally:
            thaw(cluster.broker(node))
        books = await drained(settings, config)
        assert books.balanced and books.open == 0 and books.alerts == 60 * PARTITIONS, books
        published = await storms(settings)
        assert {name: essence(storm) for name, storm in published.items()} == await keyed_model(settings, load(config))
