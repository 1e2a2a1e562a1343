"""A Redis Cluster of six nodes fails over, and moves the slot of the keys, under load: every alert is counted once."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stormfold.errors import ActionRequired, Retry
from stormfold.local.kafka import EmbeddedKafka
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from tests.integration.pipeline.failover import folded, open_pipeline, until_it_folds
from tests.integration.redis.actions import VERSION, Folder, alert, contents, start
from tests.support.cli import stormfold
from tests.support.pipeline import Pipeline, publish_live
from tests.support.redis_cluster import Cluster
from tests.support.redis_servers import OwnRedis

SECONDS = 14.0
"""Length of the load of a test."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Six nodes, for all tests of this file."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        asyncio.run(made.start())
        yield made
    finally:
        made.stop()


@pytest.fixture
async def pipeline(kafka: EmbeddedKafka, cluster: Cluster, tmp_path: Path) -> AsyncIterator[Pipeline]:
    """A pipeline whose worker runs."""
    async with open_pipeline(kafka, cluster.nodes[0], tmp_path, redis_url=cluster.url) as made:
        made.start()
        yield made


def _client(node: OwnRedis) -> Redis:
    return Redis.from_url(node.url)


async def test_commands_and_status_work_on_a_cluster(pipeline: Pipeline, cluster: Cluster) -> None:
    sent = await publish_live(pipeline.settings, 3.0, 40)
    await pipeline.assert_keyed_model(alerts=sent)
    status = await stormfold(pipeline.settings, "status")
    assert cluster.url in status.stdout and "noeviction" in status.stdout, status
    assert (await stormfold(pipeline.settings, "audit")).returncode == 0


async def test_a_worker_follows_a_planned_failover(pipeline: Pipeline, cluster: Cluster) -> None:
    publishing = asyncio.ensure_future(publish_live(pipeline.settings, SECONDS, 41))
    old = await cluster.owner()
    await until_it_folds(pipeline.settings, _client(old))
    new = await cluster.replica_of(old)
    await cluster.ask(new, "CLUSTER", "FAILOVER")
    await cluster.until_owned(new)
    await until_it_folds(pipeline.settings, _client(new))
    await pipeline.assert_keyed_model(alerts=await publishing)
    await cluster.until_ready()


async def test_a_worker_follows_a_failover_after_a_kill(pipeline: Pipeline, cluster: Cluster) -> None:
    publishing = asyncio.ensure_future(publish_live(pipeline.settings, SECONDS, 42))
    old = await cluster.owner()
    await until_it_folds(pipeline.settings, _client(old))
    new = await cluster.replica_of(old)
    await asyncio.to_thread(old.kill)
    await cluster.until_owned(new)
    await until_it_folds(pipeline.settings, _client(new))
    await asyncio.to_thread(old.start)
    await pipeline.assert_keyed_model(alerts=await publishing)
    await cluster.until_ready()


async def test_a_worker_follows_the_slot_while_its_keys_are_moved(pipeline: Pipeline, cluster: Cluster) -> None:
    publishing = asyncio.ensure_future(publish_live(pipeline.settings, SECONDS, 43))
    source = await cluster.owner()
    await until_it_folds(pipeline.settings, _client(source))
    target = await _another_primary(cluster, source)
    assert await cluster.move_slot(source, target) > 20
    await cluster.until_owned(target)
    await until_it_folds(pipeline.settings, _client(target))
    await pipeline.assert_keyed_model(alerts=await publishing)
    await cluster.until_ready()


async def test_a_call_in_the_middle_of_a_move_is_refused_as_a_whole(cluster: Cluster) -> None:
    """All keys that the call names are still in the old node, but its bucket is in the new one."""
    source = await cluster.owner()
    target = await _another_primary(cluster, source)
    async with connect(Settings(redis_url=cluster.url)) as redis:
        store = Store(redis, "moving")
        await start(store)
        fold = Folder(store)
        await fold([alert(1, 0), alert(2, 0)])
        await redis.hset(store.keys.of(VERSION.number).marks, "0:0", "0")
        await cluster.begin_move(source, target)
        assert await cluster.move_keys(source, target, b"moving:{0}:1:b:") == 1
        for _ in range(3):
            with pytest.raises(Retry):
                await fold([alert(3, 0)])
        await cluster.move_keys(source, target)
        await cluster.end_move(source, target)
        state = await store.load()
        assert state is not None and state.positions[0].offset == 1
        await fold([alert(3, 0)])
        assert [content.alerts for content in (await contents(store)).values()] == [3]
    await cluster.until_ready()


async def _another_primary(cluster: Cluster, than: OwnRedis) -> OwnRedis:
    primaries = [node for node in cluster.nodes if (await cluster.role(node))[0] == "master"]
    return next(node for node in primaries if node is not than)


async def test_a_primary_that_was_parted_comes_back_without_what_it_got_alone(
    pipeline: Pipeline, cluster: Cluster
) -> None:
    """Its replica is cut off first, then it is frozen: the replica takes over without the last writes."""
    publishing = asyncio.ensure_future(publish_live(pipeline.settings, SECONDS, 44))
    old = await cluster.owner()
    await until_it_folds(pipeline.settings, _client(old))
    new = await cluster.replica_of(old)
    # The replica knows no user whom its primary admits.
    await cluster.ask(new, "CONFIG", "SET", "masteruser", "nobody")
    await cluster.ask(new, "CONFIG", "SET", "masterauth", "nobody")
    await cluster.ask(old, "CLIENT", "KILL", "TYPE", "replica")
    await until_it_folds(pipeline.settings, _client(old))
    assert await folded(pipeline.settings, _client(old)) > 0
    os.kill(old.pid, signal.SIGSTOP)
    try:
        await cluster.until_owned(new, without=old)
        await until_it_folds(pipeline.settings, _client(new))
    finally:
        os.kill(old.pid, signal.SIGCONT)
    await cluster.ask(new, "CONFIG", "SET", "masteruser", "")
    await cluster.ask(new, "CONFIG", "SET", "masterauth", "")
    await pipeline.assert_keyed_model(alerts=await publishing)
    await cluster.until_ready()


async def _load(url: str) -> None:
    async with connect(Settings(redis_url=url)) as client:
        await Store(client, "stormfold").load()


async def test_a_cluster_and_a_single_server_taken_for_each_other_are_reported(
    cluster: Cluster, redis_server: OwnRedis
) -> None:
    other = await _another_primary(cluster, await cluster.owner())
    with pytest.raises(ActionRequired, match="Redis is a node of a cluster") as refused:
        await _load(other.url)
    assert refused.value.hint and "redis+cluster://" in refused.value.hint
    with pytest.raises(ActionRequired, match="Redis is not a cluster") as refused:
        await _load(f"redis+cluster://{redis_server.address}")
