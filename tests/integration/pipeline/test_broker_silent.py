"""A broker that is up and silent: its machine is frozen, or its packets are lost."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import create, topics
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings
from tests.chaos.brokers import BROKERS, Cluster, coordinated, coordinated_by_one, freeze, leaders, running, thaw
from tests.support.alerts import now, spread
from tests.support.pipeline import Pipeline, aggregates, publish
from tests.support.servers import until
from tests.support.workers import Workers

PARTITIONS = 4
STAGES = ("intake", "fold")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Two brokers with Kafka's default session timeout of brokers."""
    async with running(Cluster(tmp_path / "kafka", [[]] * BROKERS, {"broker.session.timeout.ms": "9000"})) as cluster:
        yield cluster


@pytest.fixture
async def settings(cluster: Cluster, redis_server: EmbeddedRedis) -> Settings:
    """Settings with topics on both brokers and both groups coordinated by one of them."""
    found, _ = await coordinated_by_one(cluster, redis_server.url, STAGES)
    async with open_admin(found) as admin:
        await create(admin, topics(found, PARTITIONS, producer_timestamps=True))
    return found


async def publish_now(settings: Settings, name: str) -> None:
    """Publishes thirty alerts of the current time to each partition."""
    await publish(settings, spread(name, 30 * PARTITIONS, now(), step=0, partitions=PARTITIONS))


async def closed(settings: Settings, name: str) -> None:
    """Waits until an aggregate of these alerts is published."""

    async def published() -> bool:
        return any(found.group_labels["alertname"] == name for found in (await aggregates(settings)).values())

    await until(published, 60, f"an aggregate of {name}")


async def led_by(node: int, cluster: Cluster) -> None:
    """Waits until this broker reports that it leads every partition."""

    async def alone() -> bool:
        return await leaders(cluster.broker(node)) == {node}

    await until(alone, what="leaders have moved")


@pytest.mark.parametrize("coordinates", [True, False])
async def test_the_partitions_and_groups_of_a_silent_broker_move_and_aggregates_are_closed(
    cluster: Cluster, settings: Settings, tmp_path: Path, *, coordinates: bool
) -> None:
    """A worker that joins while the broker is silent works too. At the end each alert is counted once."""
    with Workers(settings, tmp_path) as workers:
        pipeline = Pipeline(settings, workers)
        pipeline.configure("windows: {gap: 2s, grace: 2s, slice: 10s}\n")
        pipeline.start()
        await publish_now(settings, "Before")
        await closed(settings, "Before")
        (coordinator,) = set((await coordinated(settings, cluster.brokers[0], STAGES)).values())
        node = coordinator if coordinates else cluster.rest(coordinator)
        rest = cluster.rest(node)
        freeze(cluster.broker(node))
        try:
            # It must assign positions before the cluster knows that their leader is silent.
            pipeline.start()
            await led_by(rest, cluster)
            others = settings.model_copy(update={"kafka_bootstrap_servers": cluster.broker(rest).bootstrap})
            await publish_now(others, "During")
            await closed(others, "During")
        finally:
            thaw(cluster.broker(node))
        await pipeline.assert_keyed_model(alerts=60 * PARTITIONS)
