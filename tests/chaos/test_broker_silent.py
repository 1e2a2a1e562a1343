"""A broker that is there and says nothing: its machine stands still, or its packets go nowhere."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from stormfold.config import load
from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import create, topics
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings
from tests.chaos.brokers import BROKERS, Cluster, coordinated, coordinated_by_one, freeze, leaders, thaw
from tests.support.pipeline import (
    Sent,
    Workers,
    alert,
    assert_balanced,
    drained,
    essence,
    keyed_model,
    publish,
    record,
    storms,
)
from tests.support.servers import until

PARTITIONS = 4
STAGES = ("intake", "fold")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Two brokers; how long a silent one is taken for alive is as Kafka has it."""
    kafka = Cluster(tmp_path / "kafka", [[]] * BROKERS, {"broker.session.timeout.ms": "9000"})
    async with AsyncExitStack() as stack:
        for server in kafka.servers:
            stack.push_async_callback(asyncio.to_thread, server.kill)
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in kafka.servers))
        yield kafka


@pytest.fixture
async def settings(cluster: Cluster, redis_server: EmbeddedRedis) -> Settings:
    """Topics on both brokers; one broker coordinates both groups."""
    found, _ = await coordinated_by_one(cluster, redis_server.url, STAGES)
    async with open_admin(found) as admin:
        await create(admin, topics(found, PARTITIONS, past=True))
    return found


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Short windows."""
    path = tmp_path / "stormfold.yaml"
    path.write_text("windows: {gap: 2s, grace: 2s, slice: 10s}\n")
    return path


async def happen(settings: Settings, name: str) -> None:
    """Thirty alerts in each partition, now."""
    now = time.time_ns() // 1_000_000
    alerts = [Sent(now, record(alert(name, pod=f"pod-{n}")), n % PARTITIONS) for n in range(30 * PARTITIONS)]
    await publish(settings, alerts)


async def closed(settings: Settings, name: str) -> None:
    """Waits until a storm of these alerts is published."""

    async def there() -> bool:
        return any(storm.group_labels["alertname"] == name for storm in (await storms(settings)).values())

    await until(there, 60, f"a storm {name}")


async def led_by(node: int, cluster: Cluster) -> None:
    """Waits until this broker leads everything, as it says itself."""

    async def alone() -> bool:
        return await leaders(cluster.broker(node)) == {node}

    await until(alone, what="leaders have moved")


@pytest.mark.parametrize("coordinates", [True, False])
async def test_silent(cluster: Cluster, settings: Settings, config: Path, tmp_path: Path, *, coordinates: bool) -> None:
    """What it led and coordinated moves to the other, and storms are closed while it is still silent, by a worker that
    came meanwhile, too; in the end each alert is in one storm, once."""
    with Workers(settings, tmp_path, config) as workers:
        workers.start()
        await happen(settings, "Before")
        await closed(settings, "Before")
        (coordinator,) = set((await coordinated(settings, cluster.brokers[0], STAGES)).values())
        node = coordinator if coordinates else cluster.rest(coordinator)
        rest = cluster.rest(node)
        freeze(cluster.broker(node))
        try:
            # It has to place its partitions while nobody knows yet that their leader is gone.
            workers.start()
            await led_by(rest, cluster)
            others = settings.model_copy(update={"kafka_bootstrap_servers": cluster.broker(rest).bootstrap})
            await happen(others, "During")
            await closed(others, "During")
        finally:
            thaw(cluster.broker(node))
        books = await drained(settings, config)
        assert_balanced(books, alerts=60 * PARTITIONS)
        published = await storms(settings)
        assert {name: essence(storm) for name, storm in published.items()} == await keyed_model(settings, load(config))
