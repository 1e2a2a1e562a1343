"""The pipeline with a real API server: workers that write as their service account, and what must hold afterwards."""

import asyncio
import json
import re
import subprocess
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka import AIOKafkaConsumer, TopicPartition
from redis.asyncio import Redis

from stormfold.config import load
from stormfold.kafka.client import client_options, open_admin
from stormfold.kafka.committed import read_committed
from stormfold.manifest import from_manifest
from stormfold.settings import Settings
from tests.support.alerts import Sent, alert, record
from tests.support.apiserver import ApiServer
from tests.support.model import Counts, counts_of, keyed_model
from tests.support.pipeline import aggregates, assert_balanced, drained, publish, read_topic
from tests.support.servers import until
from tests.support.workers import Workers

PARTITIONS = range(3)
STEADY_SECONDS = 2.0
"""How long the worker must report the same problem."""


@dataclass
class ClusterStack:
    """An API server, the topics, and workers that write as their service account."""

    server: ApiServer
    settings: Settings
    config: Path
    workers: Workers
    namespaces: tuple[str, ...] = ("storms",)

    async def start(self) -> subprocess.Popen[bytes]:
        """Starts a worker, and waits until it answers."""
        worker = self.workers.start()

        async def answers() -> bool:
            assert worker.poll() is None, "the worker has ended"
            return await self.ask("/healthz") is not None

        await until(answers, what="the worker answers")
        return worker

    async def ask(self, path: str) -> tuple[int, str] | None:
        """Status and body of the worker's answer; None if it does not answer."""
        with suppress(aiohttp.ClientError):
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://{self.settings.http_address}{path}") as answer,
            ):
                return answer.status, await answer.text()
        return None

    async def ready(self) -> bool:
        """Whether the worker is ready."""
        answer = await self.ask("/readyz")
        return answer is not None and answer[0] == 200

    async def problem(self, component: str = "emit") -> dict[str, Any]:
        """The problem that the worker reports for a component; empty if there is none."""
        answer = await self.ask("/readyz")
        if answer is None or answer[0] != 503:
            return {}
        found: list[dict[str, Any]] = json.loads(answer[1])["problems"]
        return next((problem for problem in found if problem["component"] == component), {})

    async def written(self, outcome: str) -> int:
        """Number of storms that the worker wrote with this outcome, from its metrics."""
        return await self._count(f'stormfold_resources_written_total{{kind="AlertStorm",outcome="{outcome}"}}')

    async def refused(self) -> int:
        """Number of writes that require action by a person, from the worker's metrics."""
        return await self._count('stormfold_sink_errors_total{kind="AlertStorm",outcome="action_required"}')

    async def _count(self, metric: str) -> int:
        answer = await self.ask("/metrics")
        assert answer
        found = re.search(rf"^{re.escape(metric)} (\S+)$", answer[1], re.MULTILINE)
        return int(float(found[1])) if found else 0

    async def wrote_more(self, than: int) -> bool:
        """Whether the worker has created more storms than this."""
        return await self.written("created") > than

    async def refused_more(self, than: int) -> bool:
        """Whether more writes than this were refused."""
        return await self.refused() > than

    async def redis_keys(self) -> set[str]:
        """The last parts of all key names in Redis."""
        async with Redis.from_url(self.settings.redis_url, decode_responses=True) as redis:
            return {str(key).rpartition(":")[2] for key in await redis.keys(f"{self.settings.redis_prefix}:*")}

    async def group_is(self, state: str) -> bool:
        """Whether the consumer group of emit is in this state, such as `Empty` or `Stable`."""
        async with open_admin(self.settings) as admin:
            (answer,) = await admin.describe_consumer_groups([self.settings.consumer_group("emit")])
        ((error, _, now, *_),) = answer.groups
        assert error == 0
        return bool(now == state)

    async def unwritten(self) -> int:
        """Records in `storms` that emit has not committed."""
        topic = self.settings.storms_topic
        committed = await read_committed(self.settings, self.settings.consumer_group("emit"), topic)
        async with AIOKafkaConsumer(**client_options(self.settings)) as consumer:
            ends = await consumer.end_offsets([TopicPartition(topic, partition) for partition in PARTITIONS])
        return sum(end - (committed[tp.partition][0] if tp.partition in committed else 0) for tp, end in ends.items())

    async def stored(self) -> dict[str, dict[str, Any]]:
        """The resources in the cluster by name."""
        found = [await asyncio.to_thread(self.server.storms, namespace) for namespace in self.namespaces]
        assert sum(map(len, found)) == len(set().union(*found)), "a storm in two namespaces"
        return {name: item for items in found for name, item in items.items()}

    async def publish(self, name: str, *, ago: float = 0.0) -> None:
        """Publishes alerts of 24 storms, 12 isolated groups and a silenced one, with times `ago` seconds before now."""
        sizes = {f"Many{name}{n}": 12 for n in range(24)} | {f"Few{name}{n}": 3 for n in range(12)}
        alerts = [
            alert(group, pod=f"pod-{n}") for group, size in {**sizes, f"Quiet{name}": 15}.items() for n in range(size)
        ]
        at = time.time_ns() // 1_000_000 - round(ago * 1000)
        await publish(self.settings, [Sent(at + n // 3, record(one), n % 3) for n, one in enumerate(alerts)])

    async def write_old(self, name: str) -> dict[str, dict[str, Any]]:
        """Starts a worker that writes old storms; returns their resources."""
        await self.publish(name, ago=3600.0)
        await self.start()
        return await self.assert_written()

    async def assert_waiting(self, problem: str, hint: str = "") -> None:
        """Asserts that storms close and wait in `storms`, not in Redis, while the cluster is broken.

        The worker is alive, and reports the problem and the hint all the time.
        """
        books = await drained(self.settings, self.config)
        assert_balanced(books)
        # Apart from the lease of correlation, and what is announced.
        held = await self.redis_keys() - {"correlation", "announced"}
        assert held == {"epoch", "pos", "org", "mark", "intake"}, "Redis holds more than positions"
        await until(self.problem, what="not ready")
        assert await self.unwritten() > 0
        deadline = time.monotonic() + STEADY_SECONDS
        while time.monotonic() < deadline:
            found = await self.problem()
            assert re.search(problem, found.get("problem", "")), found
            assert hint in (found["hint"] or ""), found
            assert bool(hint) == bool(found["hint"]), found
            await asyncio.sleep(0.1)
        healthy = await self.ask("/healthz")
        assert healthy and healthy[0] == 200

    async def assert_written(
        self, *, besides: Collection[str] = (), again: Collection[str] = (), made_up_incidents: bool = False
    ) -> dict[str, dict[str, Any]]:
        """Asserts that every alert is counted once and every storm, and nothing else, is a resource.

        Those of a namespace were created in the order of each partition.

        `besides` are names that the test put into `storms` or the cluster, `again` those that it deleted. With
        `made_up_incidents`, it put incidents of no storms into `incidents`. Returns the resources.
        """
        books = await drained(self.settings, self.config)
        if made_up_incidents:
            books = replace(books, incidents=None)
        assert_balanced(books, dead_letters=0)
        published = await aggregates(self.settings, besides)
        model = await keyed_model(self.settings, load(self.config))
        assert {name: counts_of(storm) for name, storm in published.items()} == model
        assert {name: storm.aggregate_class for name, storm in published.items()} == {
            name: expected_class(name, storm) for name, storm in model.items()
        }
        assert {storm.aggregate_class for storm in published.values()} == {"Storm", "Isolated", "Silenced"}
        await until(self._all_written, what="emit has committed everything")
        stored = await self.stored()
        assert {name: from_manifest(item) for name, item in stored.items() if name not in besides} == {
            name: storm for name, storm in published.items() if storm.aggregate_class == "Storm"
        }
        await self._in_order({name: item for name, item in stored.items() if name not in again})
        await until(self.ready, what="ready")
        return stored

    async def _all_written(self) -> bool:
        return await self.unwritten() == 0

    async def _in_order(self, stored: dict[str, dict[str, Any]]) -> None:
        orders: dict[tuple[int, str], list[int]] = {}
        for found in await read_topic(self.settings, self.settings.storms_topic):
            if item := stored.get(found.key.decode()):
                lane = found.partition, item["metadata"]["namespace"]
                orders.setdefault(lane, []).append(int(item["metadata"]["resourceVersion"]))
        assert orders and all(order == sorted(order) for order in orders.values()), orders


def expected_class(name: str, storm: Counts) -> str:
    """The class under the configuration of the tests."""
    if name.startswith("quiet"):
        return "Silenced"
    return "Storm" if storm.distinct >= 10 or len(storm.resources) >= 5 else "Isolated"


async def reset_emit(settings: Settings) -> None:
    """Resets the offsets of emit. Its consumer group must be empty."""
    consumer = AIOKafkaConsumer(
        **client_options(settings), group_id=settings.consumer_group("emit"), enable_auto_commit=False
    )
    async with consumer:
        partitions = [TopicPartition(settings.storms_topic, partition) for partition in PARTITIONS]
        consumer.assign(partitions)
        await consumer.commit(dict.fromkeys(partitions, 0))
