"""The HTTP endpoints of a worker, with and without its servers."""

import asyncio
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stormfold.config import Config
from stormfold.errors import ActionRequired
from stormfold.local.redis import EmbeddedRedis
from stormfold.redis.client import connect
from stormfold.settings import Settings
from stormfold.status.snapshot import STAGES
from stormfold.worker import Worker
from tests.integration.web.working import NOBODY, get, ready, working
from tests.support.alerts import Sent, alert, record
from tests.support.pipeline import publish
from tests.support.servers import until


async def lags(worker: Worker) -> dict[tuple[str, str], float]:
    """The exported lag by stage and partition."""
    families = text_string_to_metric_families((await get(worker, "/metrics")).text)
    return {
        (sample.labels["stage"], sample.labels["partition"]): sample.value
        for family in families
        for sample in family.samples
        if sample.name == "stormfold_lag_records"
    }


async def test_without_servers_the_worker_is_healthy_but_not_ready(settings: Settings) -> None:
    """It listens before it has found Kafka or Redis, and reports a problem for each component."""
    members = set(STAGES) - {"correlate"}
    async with working(settings.model_copy(update=NOBODY)) as worker:
        first = await get(worker, "/readyz")
        assert first.status == 503 and first.body["ready"] is False
        assert members <= first.problems.keys()

        async def reported() -> bool:
            return {"redis", "close"} <= (await get(worker, "/readyz")).problems.keys()

        await until(reported, what="Redis is reported")
        problems = (await get(worker, "/readyz")).problems
        assert all("no Kafka broker answers at 127.0.0.1:9" in problems[part] for part in members)
        assert "127.0.0.1:10" in problems["redis"]
        healthy = await get(worker, "/healthz")
        assert (healthy.status, healthy.body) == (200, {"healthy": True, "stale": []})
        assert "stormfold_state_version" in (await get(worker, "/metrics")).text
        index = await get(worker, "/")
        assert all(path in index.text for path in ("/healthz", "/readyz", "/metrics"))


async def test_missing_topics_are_a_problem_with_a_hint(settings: Settings) -> None:
    async with working(settings) as worker:

        async def hint() -> set[str | None]:
            return {
                problem["hint"]
                for problem in (await get(worker, "/readyz")).body["problems"]
                if "does not exist" in problem["problem"]
            }

        assert await until(hint, what="the topics are missed") == {"run `stormfold topics --create`"}


async def test_a_complete_worker_is_ready_and_exports_the_lag_of_each_partition(topics: Settings) -> None:
    await publish(topics, [Sent(1_780_000_000_000 + n, record(alert(pod=f"p-{n}")), n % 3) for n in range(30)])
    async with working(topics) as worker:
        await until(lambda: ready(worker), what="it is ready")
        assert (await get(worker, "/readyz")).body == {"ready": True, "problems": [], "warnings": [], "sink": "none"}
        lag = await lags(worker)
        assert lag.keys() >= {("intake", "0"), ("intake", "1"), ("intake", "2"), ("fold", "0"), ("emit", "2")}

        async def read() -> bool:
            lag = await lags(worker)
            return all(records == 0 for (stage, _), records in lag.items() if stage == "intake")

        await until(read, what="all is read")
        port = worker.web.port
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_only_running_stages_count_for_readiness(topics: Settings) -> None:
    """The sink is reported only if the worker writes storms."""
    async with working(topics.model_copy(update={"stages": "emit"})) as worker:
        await until(lambda: ready(worker), what="it is ready")
        stages = {stage for stage, _ in await lags(worker)}
        assert stages == {"emit", "emit-incidents"}
        assert (await get(worker, "/readyz")).body["sink"] == "none"
    async with working(topics.model_copy(update={"stages": "intake"})) as worker:
        assert (await get(worker, "/readyz")).body["sink"] is None


async def test_a_partition_that_moves_is_exported_by_its_new_worker_only(topics: Settings) -> None:
    only = topics.model_copy(update={"stages": "intake", "session_timeout": 6.0})
    async with working(only) as first:
        await until(lambda: ready(first), what="the first one is ready")
        assert len(await lags(first)) == 3
        async with working(only) as second:

            async def shared() -> bool:
                mine = (await lags(first)).keys()
                others = (await lags(second)).keys()
                return bool(mine and others) and not mine & others and len(mine | others) == 3

            await until(shared, what="the partitions are shared")
            for worker in (first, second):
                await until(partial(ready, worker), what="each reads its own")


async def test_a_worker_without_partitions_is_ready(topics: Settings) -> None:
    only = topics.model_copy(update={"stages": "emit", "session_timeout": 6.0})
    async with working(only) as one, working(only) as two, working(only) as three, working(only) as four:

        async def all_ready() -> bool:
            states = [await ready(worker) for worker in (one, two, three, four)]
            shares = sorted([len(worker.members()[0].assigned()) for worker in (one, two, three, four)])
            return all(states) and shares == [0, 1, 1, 1]

        await until(all_ready, what="three have partitions, and one has none")


async def test_a_redis_outage_is_reported_and_ends(topics: Settings, tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    await asyncio.to_thread(server.start)
    try:
        async with working(topics.model_copy(update={"redis_url": server.url})) as worker:
            await until(lambda: ready(worker), what="it is ready")
            await asyncio.to_thread(server.kill)

            async def reported() -> bool:
                return "redis" in (await get(worker, "/readyz")).problems

            await until(reported, what="Redis is reported")
            (problem,) = [t for t in (await get(worker, "/readyz")).body["problems"] if t["component"] == "redis"]
            assert "Redis is not available" in problem["problem"] and problem["since"].endswith("+00:00")
            assert (await get(worker, "/healthz")).status == 200
            await asyncio.to_thread(server.start)
            await until(lambda: ready(worker), what="it is ready again")
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_redis_that_may_evict_keys_makes_the_worker_not_ready(topics: Settings, tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    await asyncio.to_thread(server.start)
    try:
        async with (
            working(topics.model_copy(update={"redis_url": server.url})) as worker,
            connect(worker.settings) as redis,
        ):
            await until(lambda: ready(worker), what="it is ready")
            await redis.config_set("maxmemory", "100mb")
            await redis.config_set("maxmemory-policy", "allkeys-lru")

            async def reported() -> bool:
                return "redis" in (await get(worker, "/readyz")).problems

            await until(reported, what="the policy is reported")
            answer = await get(worker, "/readyz")
            (problem,) = answer.body["problems"]
            assert answer.status == 503 and "allkeys-lru" in problem["problem"]
            assert problem["hint"] == "set maxmemory-policy noeviction"
            await redis.config_set("maxmemory-policy", "noeviction")
            await until(lambda: ready(worker), what="it is ready again")
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_component_that_hangs_is_stale(topics: Settings) -> None:
    async with working(topics) as worker:
        await until(lambda: ready(worker), what="it is ready")
        fold = next(consumer for consumer in worker.consumers if consumer.member.name == "fold")
        async with fold.busy:
            # Marks keep coming: soon its channel is full, and nothing moves any more.
            worker.health.timeout = 2.0

            async def only_fold() -> bool:
                answer = await get(worker, "/healthz")
                assert answer.status == (503 if answer.body["stale"] else 200)
                # On a slow machine others are stale for moments.
                return [part for part in answer.body["stale"] if not part.startswith("retention")] == ["fold"]

            await until(only_fold, what="it is stale")
            assert "no heartbeat for" in (await get(worker, "/readyz")).problems["fold"]


async def test_a_second_worker_on_the_same_address_does_not_start(topics: Settings) -> None:
    async with working(topics) as worker:
        same = topics.model_copy(update={"http_address": f"127.0.0.1:{worker.web.port}"})
        with pytest.raises(ActionRequired, match=f"cannot listen on 127.0.0.1:{worker.web.port}") as refused:
            await Worker(same, Config()).start()
        assert "STORMFOLD_HTTP_ADDRESS" in str(refused.value.hint)
