"""The whole pipeline into a real API server, with the rights that k8s/rbac.yaml grants, on its good and bad days."""

import asyncio
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from redis.asyncio import Redis

from stormfold.config import load
from stormfold.kafka.client import client_options, open_admin
from stormfold.kafka.committed import read_committed
from stormfold.local.process import free_port
from stormfold.manifest import from_manifest
from stormfold.settings import Settings
from tests.integration.kubernetes.conftest import built as built
from tests.support.alerts import Sent, alert, record
from tests.support.apiserver import STORMS, WORKER, ApiServer
from tests.support.model import Counts, counts_of, keyed_model
from tests.support.outages import (
    RBAC_GROUP,
    away,
    create_namespace,
    delete_namespace,
    failing,
    forbidden,
    saturated,
    storeless,
)
from tests.support.pipeline import aggregates, assert_balanced, drained, publish, read_topic
from tests.support.servers import until
from tests.support.storms import manifest
from tests.support.workers import Workers

CONFIG = """
windows: {gap: 1s, grace: 500ms, slice: 4s}
silences:
  - {name: known, match: 'alertname=~"Quiet.*"', starts: 2020-01-01T00:00:00Z}
"""
TEAM_ROUTE = """
routes:
  - {name: team, match: 'alertname=~"Many[A-Za-z]+0"', namespace: team}
"""
PARTITIONS = range(3)
STEADY_SECONDS = 2.0
"""How long the worker has to go on saying that it is not ready."""


@dataclass
class Scene:
    """A cluster, the pipeline's topics, and workers that write as their service account."""

    server: ApiServer
    settings: Settings
    config: Path
    workers: Workers
    namespaces: tuple[str, ...] = ("storms",)

    async def start(self) -> subprocess.Popen[bytes]:
        """A worker process, once it answers."""
        worker = self.workers.start()

        async def answers() -> bool:
            assert worker.poll() is None, "the worker has ended"
            return await self.ask("/healthz") is not None

        await until(answers, what="the worker answers")
        return worker

    async def ask(self, path: str) -> tuple[int, str] | None:
        """Status and text that the worker answers with, if it does."""
        with suppress(aiohttp.ClientError):
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://{self.settings.http_address}{path}") as answer,
            ):
                return answer.status, await answer.text()
        return None

    async def ready(self) -> bool:
        """Whether the worker says that it can do its work."""
        answer = await self.ask("/readyz")
        return answer is not None and answer[0] == 200

    async def problem(self, part: str = "emit") -> dict[str, Any]:
        """What the worker says of a part that keeps it from its work; empty if nothing."""
        answer = await self.ask("/readyz")
        if answer is None or answer[0] != 503:
            return {}
        found: list[dict[str, Any]] = json.loads(answer[1])["problems"]
        return next((problem for problem in found if problem["component"] == part), {})

    async def written(self, outcome: str) -> int:
        """How many storms the worker wrote, by its metrics, with that outcome."""
        return await self._count(f'stormfold_storms_written_total{{outcome="{outcome}"}}')

    async def refused(self) -> int:
        """How many times the worker could not write until a person has acted, by its metrics."""
        return await self._count('stormfold_sink_errors_total{outcome="action_required"}')

    async def _count(self, metric: str) -> int:
        answer = await self.ask("/metrics")
        assert answer
        found = re.search(rf"^{re.escape(metric)} (\S+)$", answer[1], re.MULTILINE)
        return int(float(found[1])) if found else 0

    async def wrote_more(self, than: int) -> bool:
        """Whether the worker created more storms than so many."""
        return await self.written("created") > than

    async def refused_more(self, than: int) -> bool:
        """Whether the worker was refused more often than so many times."""
        return await self.refused() > than

    async def kept(self) -> set[str]:
        """The last parts of the names of the keys in Redis."""
        async with Redis.from_url(self.settings.redis_url, decode_responses=True) as redis:
            return {str(key).rpartition(":")[2] for key in await redis.keys(f"{self.settings.redis_prefix}:*")}

    async def group_is(self, state: str) -> bool:
        """Whether emit's consumer group is in that state: `Empty` without members, `Stable` once they have joined."""
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

    async def happen(self, name: str, *, ago: float = 0.0) -> None:
        """Publishes alerts of 24 storms, 12 groups too small for one, and a silenced one, so many seconds ago."""
        sizes = {f"Many{name}{n}": 12 for n in range(24)} | {f"Few{name}{n}": 3 for n in range(12)}
        alerts = [
            alert(group, pod=f"pod-{n}") for group, size in {**sizes, f"Quiet{name}": 15}.items() for n in range(size)
        ]
        at = time.time_ns() // 1_000_000 - round(ago * 1000)
        await publish(self.settings, [Sent(at + n // 3, record(one), n % 3) for n, one in enumerate(alerts)])

    async def past(self, name: str) -> dict[str, dict[str, Any]]:
        """Has a worker write storms that are long over; returns their resources."""
        await self.happen(name, ago=3600.0)
        await self.start()
        return await self.proven()

    async def endure(self, says: str, hint: str = "") -> None:
        """The cluster has been broken: what is open closes, and waits in `storms`, not in Redis.

        The worker is alive, and goes on saying what keeps it from its work and what to do.
        """
        books = await drained(self.settings, self.config)
        assert_balanced(books)
        assert await self.kept() == {"epoch", "pos", "org", "mark", "intake"}, "Redis holds more than positions"
        await until(self.problem, what="not ready")
        assert await self.unwritten() > 0
        begun = time.monotonic()
        while time.monotonic() < begun + STEADY_SECONDS:
            problem = await self.problem()
            assert re.search(says, problem.get("problem", "")), problem
            assert hint in (problem["hint"] or ""), problem
            assert bool(hint) == bool(problem["hint"]), problem
            await asyncio.sleep(0.1)
        healthy = await self.ask("/healthz")
        assert healthy and healthy[0] == 200

    async def proven(self, *, besides: Collection[str] = (), again: Collection[str] = ()) -> dict[str, dict[str, Any]]:
        """Every alert is counted once, every storm is a resource as it was published, in order, and nothing else is.

        `besides` are names that the test itself put into `storms` or the cluster, `again` those that it deleted.
        Returns the resources.
        """
        books = await drained(self.settings, self.config)
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
        orders: dict[int, list[int]] = {partition: [] for partition in PARTITIONS}
        for found in await read_topic(self.settings, self.settings.storms_topic):
            if item := stored.get(found.key.decode()):
                orders[found.partition].append(int(item["metadata"]["resourceVersion"]))
        assert any(orders.values()) and all(order == sorted(order) for order in orders.values()), orders


def expected_class(name: str, storm: Counts) -> str:
    """By the rules of the configuration."""
    if name.startswith("quiet"):
        return "Silenced"
    return "Storm" if storm.distinct >= 10 or len(storm.resources) >= 5 else "Isolated"


@pytest.fixture(scope="module")
def cluster(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:  # noqa: ARG001
    """The API server of this file: its tests break it."""
    with ApiServer(tmp_path_factory.mktemp("cluster")) as server:
        yield server


@pytest.fixture
def scene(cluster: ApiServer, topics: Settings, tmp_path: Path) -> Iterator[Scene]:
    """No storms, definition and roles as shipped, small windows, one worker at a time."""
    cluster.install()
    assert cluster.request("DELETE", STORMS).status == 200
    config = tmp_path / "stormfold.yaml"
    config.write_text(CONFIG)
    settings = topics.model_copy(
        update={
            "sink": "kubernetes",
            "kubeconfig": cluster.kubeconfig(WORKER),
            "http_address": f"127.0.0.1:{free_port()}",
            # The shortest that the broker allows: how long a killed worker's partitions are left alone.
            "session_timeout": 6.0,
        }
    )
    with Workers(settings, tmp_path, config) as workers:
        yield Scene(cluster, settings, config, workers)
    print(workers.logs())


@pytest.fixture
def team(scene: Scene) -> Iterator[Scene]:
    """One storm in two dozen goes to a namespace that is not there; the worker may write to any."""
    scene.config.write_text(CONFIG + TEAM_ROUTE)
    scene.namespaces = ("storms", "team")
    server = scene.server
    rule = {"apiGroups": ["stormfold.dev"], "resources": ["alertstorms"], "verbs": ["create", "list", "delete"]}
    reference = {"apiGroup": RBAC_GROUP, "kind": "ClusterRole", "name": "anywhere"}
    worker = {"kind": "ServiceAccount", "name": "stormfold", "namespace": "storms"}
    made = (
        ("ClusterRole", {"rules": [rule]}),
        ("ClusterRoleBinding", {"roleRef": reference, "subjects": [worker]}),
    )
    for kind, content in made:
        body = {"apiVersion": f"{RBAC_GROUP}/v1", "kind": kind, "metadata": {"name": "anywhere"}, **content}
        assert server.request("POST", f"/apis/{RBAC_GROUP}/v1/{kind.lower()}s", body).status == 201
    yield scene
    for kind, _ in made:
        assert server.request("DELETE", f"/apis/{RBAC_GROUP}/v1/{kind.lower()}s/anywhere").status == 200


async def rewind(settings: Settings) -> None:
    """Has emit begin again; nobody else may be in its group."""
    consumer = AIOKafkaConsumer(
        **client_options(settings), group_id=settings.consumer_group("emit"), enable_auto_commit=False
    )
    async with consumer:
        places = [TopicPartition(settings.storms_topic, partition) for partition in PARTITIONS]
        consumer.assign(places)
        await consumer.commit(dict.fromkeys(places, 0))


async def test_storms_become_resources(scene: Scene) -> None:
    """Ready in a cluster without storms; then storms become resources as they were published, other classes don't."""
    await scene.start()
    await until(scene.ready, 10, what="ready although there is nothing")
    await scene.happen("Then", ago=3600.0)
    await scene.proven()
    await scene.happen("Now")
    stored = await scene.proven()
    assert await scene.written("created") == len(stored)
    assert await scene.written("exists") == await scene.written("parked") == 0


async def test_definition_missing(scene: Scene) -> None:
    """A worker that is started before k8s/crd.yaml is applied goes on when it is."""
    scene.server.uninstall()
    await scene.happen("Early", ago=3600.0)
    await scene.start()
    await scene.endure("404", "k8s/crd.yaml")
    scene.server.install()
    await scene.proven()


async def test_namespace_missing(team: Scene) -> None:
    """A namespace that a route names is not there at first, and goes again while storms close for it and another.

    What goes elsewhere is written, in other partitions, and the worker is not ready all the same. It is killed before
    it can commit that: it was frozen until all were closed, so they come in one poll.
    """
    says, hint = '^404 .*"team" not found', "create the namespace"
    await team.happen("Before", ago=3600.0)
    worker = await team.start()
    await team.endure(says, hint)
    assert await team.written("created") == 0
    create_namespace(team.server, "team")
    before = await team.proven()
    worker.send_signal(signal.SIGSTOP)
    team.workers.start(stages="intake,fold,close", http_address=f"127.0.0.1:{free_port()}")
    await team.happen("Meanwhile")
    await drained(team.settings, team.config)
    await until(lambda: team.group_is("Empty"), what="the frozen worker's partitions are taken from it")
    delete_namespace(team.server, "team")
    worker.send_signal(signal.SIGCONT)
    # It may read on before it learns that it was left out; then it is given all of it again.
    await until(lambda: team.group_is("Stable"), what="the worker has joined again")
    tried = await team.refused()
    await until(lambda: team.refused_more(tried), what="it is refused since it has")
    await team.endure(says, hint)
    await until(lambda: team.wrote_more(len(before)), what="what goes elsewhere is written")
    # What is written elsewhere does not make it ready, or it would be news that it is not when it tries again.
    told, tried = team.workers.logs().count("cannot write"), await team.refused()
    assert told > 0
    await until(lambda: team.refused_more(tried), what="it tries again")
    assert team.workers.logs().count("cannot write") == told
    worker.kill()
    await team.start()
    create_namespace(team.server, "team")
    after = await team.proven()
    assert before.items() < after.items()
    assert await team.written("exists") > 0


async def test_written_before(scene: Scene) -> None:
    """Offsets of emit are lost: what is there stays as it is, what somebody deleted comes again.

    The worker's retention, at work with its own rights, takes what is too old and leaves what is to be kept.
    """
    before = await scene.past("Before")
    worker = scene.workers.running[-1]
    worker.terminate()
    assert await asyncio.to_thread(worker.wait, 10) == 0
    await rewind(scene.settings)
    deleted = min(before)
    assert scene.server.request("DELETE", f"{STORMS}/{deleted}").status == 200
    days_ago = int(time.time()) - 200_000
    for name in ("old", "kept"):
        assert scene.server.request("POST", STORMS, manifest(name, days_ago)).status == 201
    assert scene.server.annotate("kept", "stormfold.dev/keep")
    await scene.start()
    await scene.happen("Now")
    await until(lambda: "old" not in scene.server.storms(), what="retention")
    after = await scene.proven(besides={"kept"}, again={deleted})
    assert "kept" in after
    assert [name for name, item in before.items() if after[name] != item] == [deleted]
    assert await scene.written("exists") == len(before) - 1


async def test_never_fits(scene: Scene) -> None:
    """Records that the API rejects for good are parked with the reason and hold up nothing behind them."""
    bad = {
        "zero-alerts": ("spec.alertCount", manifest("zero-alerts", alertCount=0)),
        "unknown-field": ('unknown field "spec.weather"', manifest("unknown-field", alertCount=0, weather="fine")),
        "wrong-type": ("spec.route", manifest("wrong-type", alertCount=0, route=7)),
        "not-the-key": ("key", manifest("another", alertCount=0)),
    }
    await scene.past("Before")
    topic = scene.settings.storms_topic
    async with AIOKafkaProducer(**client_options(scene.settings)) as producer:
        sent = {
            (name, partition): await producer.send_and_wait(topic, record(bad[name][1]), name.encode(), partition)
            for name in bad
            for partition in PARTITIONS
        }
    await scene.happen("Now")
    await scene.proven(besides=bad)
    parked = await read_topic(scene.settings, scene.settings.storms_dlq_topic)
    found = {dict(entry.headers)["stormfold-origin"].decode(): entry for entry in parked}
    assert found.keys() == {f"{topic}-{partition}-{at.offset}" for (_, partition), at in sent.items()}
    assert len(found) == len(parked)
    for (name, partition), at in sent.items():
        entry = found[f"{topic}-{partition}-{at.offset}"]
        assert (entry.key, entry.value) == (name.encode(), record(bad[name][1]))
        assert bad[name][0] in dict(entry.headers)["stormfold-reason"].decode()
    assert await scene.written("parked") == len(sent)


@pytest.mark.parametrize(
    ("broken", "says", "hint"),
    [
        (forbidden, "^403 Forbidden", "bind the role stormfold-writer"),
        (saturated, "^429", ""),
        (failing, "^500 InternalError", ""),
        (away, r"^https://127\.0\.0\.1:", ""),
        (storeless, r"^https://127\.0\.0\.1:\d+: Timeout|^50[034]", ""),
    ],
    ids=["403", "429", "500", "away", "storeless"],
)
async def test_outage(
    scene: Scene, broken: Callable[[ApiServer], AbstractContextManager[None]], says: str, hint: str
) -> None:
    """The API server is gone, or refuses everything, while storms close: none is given up."""
    before = await scene.past("Before")
    await scene.happen("Meanwhile")
    with broken(scene.server):
        await scene.endure(says, hint)
        assert await scene.written("created") == len(before)
    after = await scene.proven()
    assert before.items() < after.items()
    assert await scene.written("parked") == 0
