"""The whole pipeline with a real API server and the permissions of k8s/rbac.yaml, also during outages."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from stormfold.kafka.client import client_options
from stormfold.local.process import free_port
from stormfold.settings import Settings
from tests.integration.kubernetes.conftest import built as built
from tests.support import incident_manifests as incidents
from tests.support.alerts import record
from tests.support.apiserver import INCIDENTS, STORMS, WORKER, ApiServer
from tests.support.cluster import PARTITIONS, ClusterStack, reset_emit
from tests.support.outages import (
    RBAC_GROUP,
    away,
    create_namespace,
    delete_namespace,
    failing,
    forbidden,
    forbidden_in_team,
    full_in_team,
    saturated,
    storeless,
)
from tests.support.pipeline import drained, read_topic
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


@pytest.fixture(scope="module")
def cluster(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:  # noqa: ARG001
    """The API server of this file. Its tests break it."""
    with ApiServer(tmp_path_factory.mktemp("cluster")) as server:
        yield server


@pytest.fixture
def stack(cluster: ApiServer, topics: Settings, tmp_path: Path) -> Iterator[ClusterStack]:
    """No storms, definition and roles of k8s/, small windows."""
    cluster.install()
    for path in (STORMS, INCIDENTS):
        assert cluster.request("DELETE", path).status == 200
    config = tmp_path / "stormfold.yaml"
    config.write_text(CONFIG)
    settings = topics.model_copy(
        update={
            "sink": "kubernetes",
            "kubeconfig": cluster.kubeconfig(WORKER),
            "http_address": f"127.0.0.1:{free_port()}",
            # The shortest that the broker allows: until then nobody reads the partitions of a killed worker.
            "session_timeout": 6.0,
        }
    )
    with Workers(settings, tmp_path, config) as workers:
        yield ClusterStack(cluster, settings, config, workers)
    print(workers.logs())


@pytest.fixture
def team(stack: ClusterStack) -> Iterator[ClusterStack]:
    """One of 24 storms goes to a namespace that does not exist. The worker may write to any namespace."""
    stack.config.write_text(CONFIG + TEAM_ROUTE)
    stack.namespaces = ("storms", "team")
    server = stack.server
    rule = {"apiGroups": ["stormfold.dev"], "resources": ["alertstorms"], "verbs": ["create", "list", "delete"]}
    reference = {"apiGroup": RBAC_GROUP, "kind": "ClusterRole", "name": "anywhere"}
    worker = {"kind": "ServiceAccount", "name": "stormfold", "namespace": "storms"}
    objects = (
        ("ClusterRole", {"rules": [rule]}),
        ("ClusterRoleBinding", {"roleRef": reference, "subjects": [worker]}),
    )
    for kind, content in objects:
        body = {"apiVersion": f"{RBAC_GROUP}/v1", "kind": kind, "metadata": {"name": "anywhere"}, **content}
        assert server.request("POST", f"/apis/{RBAC_GROUP}/v1/{kind.lower()}s", body).status == 201
    yield stack
    assert server.request("DELETE", STORMS.replace("/storms/", "/team/")).status == 200
    delete_namespace(server, "team")
    for kind, _ in objects:
        assert server.request("DELETE", f"/apis/{RBAC_GROUP}/v1/{kind.lower()}s/anywhere").status == 200


async def test_storms_and_no_other_aggregates_become_resources(stack: ClusterStack) -> None:
    """The worker is ready before there are any."""
    await stack.start()
    await until(stack.ready, what="ready without storms")
    await stack.publish("Then", ago=3600.0)
    await stack.assert_written()
    await stack.publish("Now")
    stored = await stack.assert_written()
    assert await stack.written("created") == len(stored)
    assert await stack.written("exists") == await stack.written("dead_letter") == 0


async def test_storms_are_written_once_the_definition_is_applied(stack: ClusterStack) -> None:
    stack.server.uninstall()
    await stack.publish("Early", ago=3600.0)
    await stack.start()
    await stack.assert_waiting("404", "k8s/crd.yaml")
    stack.server.install()
    await stack.assert_written()


async def publish_incidents(settings: Settings, *found: dict[str, Any]) -> None:
    """Publishes manifests to `incidents`, as correlate does."""
    async with AIOKafkaProducer(**client_options(settings)) as producer:
        for one in found:
            await producer.send_and_wait(settings.incidents_topic, record(one), one["metadata"]["name"].encode())


async def test_incidents_become_resources_and_rejected_ones_dead_letters(stack: ClusterStack) -> None:
    good = incidents.manifest(), incidents.manifest("dev-1", stormCount=3)
    await publish_incidents(stack.settings, good[0], incidents.manifest("no-storms", stormCount=0), good[1])
    await stack.start()
    await until(lambda: len(stack.server.incidents()) == 2, what="they are written")
    assert {name: found["spec"] for name, found in stack.server.incidents().items()} == {
        found["metadata"]["name"]: found["spec"] for found in good
    }
    await until(lambda: read_topic(stack.settings, stack.settings.incidents_dlq_topic), what="one is rejected")
    (letter,) = await read_topic(stack.settings, stack.settings.incidents_dlq_topic)
    assert letter.key == b"no-storms" and b"spec.stormCount" in dict(letter.headers)["stormfold-reason"]
    await stack.publish("Now")
    await stack.assert_written(made_up_incidents=True)


async def test_a_missing_definition_of_one_kind_delays_nothing_of_the_other(stack: ClusterStack) -> None:
    stack.server.uninstall(path=INCIDENTS)
    await publish_incidents(stack.settings, incidents.manifest())
    await stack.publish("First", ago=3600.0)
    await stack.start()
    await until(lambda: len(stack.server.storms()) == 24, what="storms are written")

    async def problem(component: str) -> bool:
        found = await stack.problem(component)
        return "404" in found.get("problem", "") and "k8s/crd.yaml" in str(found["hint"])

    await until(lambda: problem("emit-incidents"), what="incidents cannot be written")
    assert not await stack.problem("emit")
    stack.server.install()
    await until(lambda: incidents.NAME in stack.server.incidents(), what="the incident is written")
    stack.server.uninstall()
    await publish_incidents(stack.settings, incidents.manifest("second"))
    await until(lambda: "second" in stack.server.incidents(), what="the second incident is written")
    await stack.publish("Second", ago=1800.0)
    await until(lambda: problem("emit"), what="storms cannot be written")
    assert not await stack.problem("emit-incidents")
    stack.server.install()
    await until(stack.ready, what="ready")


async def test_a_missing_namespace_does_not_delay_storms_of_others(team: ClusterStack) -> None:
    """The namespace is missing at first, and again while storms close. The worker is not ready then.

    It was frozen until all were closed, so that one poll returns them, and is killed before it can commit them.
    """
    problem, hint = '^404 .*"team" not found', "create the namespace"
    await team.publish("Before", ago=3600.0)
    worker = await team.start()
    await team.assert_waiting(problem, hint)
    await until(lambda: team.wrote_more(22), what="the storms of the other namespace are written")
    assert await team.written("created") == 23
    create_namespace(team.server, "team")
    before = await team.assert_written()
    worker.send_signal(signal.SIGSTOP)
    team.workers.start(stages="intake,fold,close", http_address=f"127.0.0.1:{free_port()}")
    await team.publish("During")
    await drained(team.settings, team.config)
    await until(lambda: team.group_is("Empty"), what="the frozen worker is removed from its group")
    delete_namespace(team.server, "team")
    worker.send_signal(signal.SIGCONT)
    # It may read on before it learns that it was removed from its group; then it reads all of this again.
    await until(lambda: team.group_is("Stable"), what="the worker has joined again")
    tried = await team.refused()
    await until(lambda: team.refused_more(tried), what="it is refused after it has joined")
    await team.assert_waiting(problem, hint)
    await until(lambda: team.wrote_more(len(before)), what="the storms of the other namespace are written")
    # Writes to the other namespace do not make it ready: otherwise it would log the problem again at the next retry.
    logged, tried = team.workers.logs().count("cannot write"), await team.refused()
    assert logged > 0
    await until(lambda: team.refused_more(tried), what="it tries again")
    assert team.workers.logs().count("cannot write") == logged
    worker.kill()
    await team.start()
    create_namespace(team.server, "team")
    after = await team.assert_written()
    assert before.items() < after.items()
    assert await team.written("exists") > 0


@pytest.mark.parametrize(
    ("broken", "problem", "hint"),
    [
        (forbidden_in_team, "^403 Forbidden.* cannot create .*namespace team", "bind the role stormfold-writer"),
        (full_in_team, "exceeded quota: few.*namespace team", "ResourceQuota"),
    ],
    ids=["forbidden", "quota"],
)
async def test_a_namespace_that_cannot_be_written_does_not_delay_storms_of_others(
    team: ClusterStack, broken: Callable[[ApiServer], AbstractContextManager[None]], problem: str, hint: str
) -> None:
    create_namespace(team.server, "team")
    with broken(team.server):
        await team.publish("Before", ago=3600.0)
        await team.start()
        await until(lambda: team.wrote_more(22), what="storms of the other namespace are written")
        await team.assert_waiting(problem, hint)
        await team.publish("During", ago=1800.0)
        await until(lambda: team.wrote_more(45), what="more storms of the other namespace are written")
    await team.assert_written()


async def test_storms_written_again_stay_and_deleted_ones_return(stack: ClusterStack) -> None:
    """The offsets of emit are lost. Retention deletes old resources, with the permissions of the worker."""
    before = await stack.write_old("Before")
    worker = stack.workers.running[-1]
    worker.terminate()
    assert await asyncio.to_thread(worker.wait, 30) == 0
    await reset_emit(stack.settings)
    deleted = min(before)
    assert stack.server.request("DELETE", f"{STORMS}/{deleted}").status == 200
    days_ago = int(time.time()) - 200_000
    for name in ("old", "kept"):
        assert stack.server.request("POST", STORMS, manifest(name, days_ago)).status == 201
    assert stack.server.annotate("kept", "stormfold.dev/keep")
    await stack.start()
    await stack.publish("Now")
    await until(lambda: "old" not in stack.server.storms(), what="retention")
    after = await stack.assert_written(besides={"kept"}, again={deleted})
    assert "kept" in after
    assert [name for name, item in before.items() if after[name] != item] == [deleted]
    assert await stack.written("exists") == len(before) - 1


async def test_records_that_the_api_server_rejects_become_dead_letters(stack: ClusterStack) -> None:
    """Records behind them are not delayed."""
    bad = {
        "zero-alerts": ("spec.alertCount", manifest("zero-alerts", alertCount=0)),
        "unknown-field": ('unknown field "spec.weather"', manifest("unknown-field", alertCount=0, weather="fine")),
        "wrong-type": ("spec.route", manifest("wrong-type", alertCount=0, route=7)),
        "not-the-key": ("key", manifest("another", alertCount=0)),
    }
    await stack.write_old("Before")
    topic = stack.settings.storms_topic
    async with AIOKafkaProducer(**client_options(stack.settings)) as producer:
        sent = {
            (name, partition): await producer.send_and_wait(topic, record(bad[name][1]), name.encode(), partition)
            for name in bad
            for partition in PARTITIONS
        }
    await stack.publish("Now")
    await stack.assert_written(besides=bad)
    rejected = await read_topic(stack.settings, stack.settings.storms_dlq_topic)
    found = {dict(entry.headers)["stormfold-origin"].decode(): entry for entry in rejected}
    assert found.keys() == {f"{topic}-{partition}-{at.offset}" for (_, partition), at in sent.items()}
    assert len(found) == len(rejected)
    for (name, partition), at in sent.items():
        entry = found[f"{topic}-{partition}-{at.offset}"]
        assert (entry.key, entry.value) == (name.encode(), record(bad[name][1]))
        assert bad[name][0] in dict(entry.headers)["stormfold-reason"].decode()
    assert await stack.written("dead_letter") == len(sent)


@pytest.mark.parametrize(
    ("broken", "problem", "hint"),
    [
        (forbidden, "^403 Forbidden", "bind the role stormfold-writer"),
        (saturated, "^429", ""),
        (failing, "^500 InternalError", ""),
        (away, r"^https://127\.0\.0\.1:", ""),
        (storeless, r"^https://127\.0\.0\.1:\d+: Timeout|^50[034]", ""),
    ],
    ids=["403", "429", "500", "away", "storeless"],
)
async def test_no_storm_is_lost_while_the_api_server_fails(
    stack: ClusterStack, broken: Callable[[ApiServer], AbstractContextManager[None]], problem: str, hint: str
) -> None:
    """Storms close during the outage."""
    before = await stack.write_old("Before")
    with broken(stack.server):
        await stack.publish("During")
        await stack.assert_waiting(problem, hint)
        assert await stack.written("created") == len(before)
    after = await stack.assert_written()
    assert before.items() < after.items()
    assert await stack.written("dead_letter") == 0
