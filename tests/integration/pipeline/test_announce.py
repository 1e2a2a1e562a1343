"""Open incidents reach Alertmanager while they form: workers, Kafka, Redis and two Alertmanagers are real."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from stormfold.incident_manifest import decode_manifest
from stormfold.kafka.client import cluster_id, open_admin
from stormfold.kafka.topics import create
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.redis import EmbeddedRedis
from tests.integration.receive.test_receive import receiving
from tests.support.alertmanager import Alertmanager, program
from tests.support.alerts import Sent, alert, record
from tests.support.gobuild import built
from tests.support.pipeline import Pipeline
from tests.support.servers import PARTITIONS, fresh_settings, until
from tests.support.workers import Workers, stop

WINDOWS = """
windows: {gap: 2s, grace: 1s, slice: 10s}
incidents: {gap: 8s, max: 2m}
"""
SECONDS = 60.0
EARLY = 20.0
"""Seconds from the threshold of a storm to its announcement, with the default windows."""


@dataclass
class Pager:
    """Takes the notifications of Alertmanager, as a person's pager would."""

    port: int
    notified: list[tuple[str, str, str]] = field(default_factory=list)
    """Status, severity and incident of each alert of each notification."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@asynccontextmanager
async def paging() -> AsyncIterator[Pager]:
    pager = Pager(0)

    async def take(request: web.Request) -> web.Response:
        for one in (await request.json())["alerts"]:
            pager.notified.append((one["status"], one["labels"]["severity"], one["annotations"]["incident"]))
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    pager.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        yield pager
    finally:
        await runner.cleanup()


def config(*receivers: str) -> str:
    """A configuration that sends each alert of an incident on its own, at once, and repeats nothing."""
    webhooks = ", ".join(f"{{url: '{url}', send_resolved: true, max_alerts: 0}}" for url in receivers)
    return (
        "route: {receiver: all, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 4h}\n"
        f"receivers: [{{name: all, webhook_configs: [{webhooks}]}}]\n"
    )


@asynccontextmanager
async def alertmanagers(folder: Path, *configs: str) -> AsyncIterator[Sequence[Alertmanager]]:
    servers = [Alertmanager(folder / f"alertmanager-{n}", text) for n, text in enumerate(configs)]
    try:
        for server in servers:
            await asyncio.to_thread(server.start)
        yield servers
    finally:
        for server in servers:
            await asyncio.to_thread(server.stop)


def urls(servers: Sequence[Alertmanager]) -> str:
    """All of them, and one that is away."""
    return ",".join([*(f"http://{server.address}" for server in servers), "http://127.0.0.1:1"])


async def announced(server: Alertmanager) -> dict[str, dict[str, Any]]:
    """The incidents that fire there, by severity."""
    return {
        one["labels"]["severity"]: one
        for one in await server.alerts()
        if one["labels"]["alertname"] == "AlertIncident" and one["status"]["state"] == "active"
    }


def burst(name: str, pods: int = 12, *, at: float | None = None, severity: str = "warning") -> list[Sent]:
    """Alerts about as many pods."""
    when = int((time.time() if at is None else at) * 1000)
    return [
        Sent(when, record(alert(name, pod=f"pod-{n}", severity=severity, cluster="eu1")), n % 3) for n in range(pods)
    ]


@pytest.fixture(autouse=True)
def _built(request: pytest.FixtureRequest) -> None:
    built(request.config, program)


class Feeder:
    """Publishes alerts of one group every half second until it is stopped."""

    def __init__(self, pipeline: Pipeline, make: Callable[[], list[Sent]]) -> None:
        self._pipeline, self._make = pipeline, make
        self._stopped = asyncio.Event()

    async def __aenter__(self) -> "Feeder":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped.set()
        await self._task

    async def _run(self) -> None:
        while not self._stopped.is_set():
            await self._pipeline.publish(self._make())
            await asyncio.sleep(0.5)


async def test_a_storm_is_announced_within_seconds_under_the_default_windows(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    pipeline.configure("{}")
    async with paging() as pager, alertmanagers(tmp_path, config(pager.url), config(pager.url)) as servers:
        pipeline.start(alertmanager=urls(servers), external_url="https://stormfold.example.com")
        await pipeline.publish(burst("Noise", 1))
        await until(lambda: _folded(pipeline), SECONDS, "the worker to fold")

        def current() -> Iterator[Sent]:
            # The start of the producer is not part of the delay.
            yield from burst("PodDown")

        await pipeline.publish(current())
        await until(lambda: _in_all(servers, "warning"), SECONDS, "the incident to be announced")
        cluster = await cluster_id(pipeline.settings)
        assert cluster
        for server in servers:
            (one,) = (await announced(server)).values()
            assert one["labels"] == {
                "alertname": "AlertIncident", "cluster": "eu1", "stormfold": "incident", "severity": "warning",
            }  # fmt: skip
            assert one["generatorURL"] == "https://stormfold.example.com"
            assert one["annotations"]["pipeline"] == f"{cluster}/{pipeline.settings.group_prefix}"
            assert one["annotations"]["summary"] == '12 alerts in 1 storm: PodDown{cluster="eu1"}'
            delay = datetime.fromisoformat(one["updatedAt"]) - datetime.fromisoformat(one["startsAt"])
            assert delay.total_seconds() < EARLY, "as the page on early notice promises"


@pytest.fixture
async def restartable(kafka: EmbeddedKafka, own_redis: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[Pipeline]:
    """A pipeline with a Redis that the test may restart, and a short lease."""
    settings = fresh_settings(kafka, own_redis, session_timeout=6.0, delivery_timeout=5, close_lease=6)
    async with open_admin(settings) as admin:
        await create(admin, wanted_topics(settings, PARTITIONS, producer_timestamps=True))
    with Workers(settings, tmp_path) as workers:
        yield Pipeline(settings, workers)


async def test_an_incident_fires_once_through_cuts_holders_and_a_restart_of_redis(
    restartable: Pipeline, own_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    """It escalates, it is resolved when it is final and not before, and its name is that of the resource."""
    pipeline = restartable
    pipeline.configure(WINDOWS)
    async with paging() as pager, alertmanagers(tmp_path, config(pager.url), config()) as servers:
        environment = {"alertmanager": urls(servers)}
        first = pipeline.start(**environment)
        async with Feeder(pipeline, lambda: burst("PodDown")):
            await until(lambda: _in_all(servers, "warning"), SECONDS, "the incident to be announced")
            second = pipeline.start(**environment)
            await asyncio.sleep(12)
            await asyncio.to_thread(own_redis.stop)
            await asyncio.sleep(3)
            await asyncio.to_thread(own_redis.start)
            await pipeline.publish(burst("NodeDown", severity="critical"))
            await until(lambda: _in_all(servers, "critical"), SECONDS, "the incident to escalate")
            first.send_signal(signal.SIGKILL)
            await until(lambda: _has_lease(pipeline), SECONDS, "the other worker to take over")
            await asyncio.sleep(12)
            assert await _in_all(servers, "critical")
        await until(lambda: _resolved(servers), SECONDS, "the incident to be resolved")
        (published,) = {found.key: found for found in await pipeline.read(pipeline.settings.incidents_topic)}.values()
        incident = decode_manifest(published.value)
        assert incident.storm_count >= 3
        await until(lambda: _paged(pager, 4), SECONDS, "the pager to hear of the end")
        assert sorted(pager.notified) == [
            (status, severity, incident.name)
            for status in ("firing", "resolved")
            for severity in ("critical", "warning")
        ], "each is notified once"
        await stop(second)
    await pipeline.drained()


async def test_an_incident_is_resolved_if_all_workers_are_killed(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.configure(WINDOWS)
    async with alertmanagers(tmp_path, config()) as servers:
        worker = pipeline.start(alertmanager=urls(servers), close_lease="2", delivery_timeout="1")
        async with Feeder(pipeline, lambda: burst("PodDown")):
            await until(lambda: _in_all(servers, "warning"), SECONDS, "the incident to be announced")
            worker.kill()
        await until(lambda: _resolved(servers), SECONDS, "the alert to end")
        pipeline.start()
    await pipeline.drained()


async def test_a_catch_up_of_hours_announces_nothing(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.configure(WINDOWS)
    past = time.time() - 6 * 3600
    for hour in range(6):
        await pipeline.publish(burst("PodDown", at=past + hour * 3600))
    async with paging() as pager, alertmanagers(tmp_path, config(pager.url)) as servers:
        pipeline.start(alertmanager=urls(servers))
        await pipeline.drained()
        assert pager.notified == [] and await announced(servers[0]) == {}


async def test_an_alertmanager_that_never_answers_delays_no_incident(pipeline: Pipeline) -> None:
    """The lease is shorter than a request, so that it is lost if the worker waits for one."""
    pipeline.configure(WINDOWS)
    await pipeline.publish(burst("PodDown", at=time.time() - 3600))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        away = ",".join(f"http://127.0.0.1:{port}/{n}" for n in range(3))
        pipeline.start(alertmanager=away, close_lease="2", delivery_timeout="1")
        await until(lambda: pipeline.read(pipeline.settings.incidents_topic), SECONDS, "the incident to be published")
    await pipeline.drained()


async def test_an_announced_incident_that_comes_back_does_not_feed_itself(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.configure(WINDOWS)
    async with (
        receiving(pipeline.settings) as (url, _),
        alertmanagers(tmp_path, config(f"{url}/alerts")) as servers,
    ):
        pipeline.start(alertmanager=urls(servers))
        async with Feeder(pipeline, lambda: burst("PodDown")):
            await until(lambda: _in_all(servers, "warning"), SECONDS, "the incident to be announced")
            await until(lambda: _came_back(pipeline), SECONDS, "the incident to come back")
        await until(lambda: _resolved(servers), SECONDS, "the incident to be resolved")
    await pipeline.drained()
    found = (await pipeline.aggregates()).values()
    assert {one.aggregate_class for one in found if one.pattern.startswith("AlertIncident")} == {"Silenced"}
    incidents = [decode_manifest(one.value) for one in await pipeline.read(pipeline.settings.incidents_topic)]
    assert len({incident.name for incident in incidents}) == 1
    assert all("AlertIncident" not in storm.pattern for incident in incidents for storm in incident.storms)


async def _in_all(servers: Sequence[Alertmanager], severity: str) -> bool:
    found = [await announced(server) for server in servers]
    return all(list(one) == [severity] for one in found)


async def _resolved(servers: Sequence[Alertmanager]) -> bool:
    return not any([await announced(server) for server in servers])


async def _folded(pipeline: Pipeline) -> bool:
    return bool(await pipeline.source_positions())


async def _has_lease(pipeline: Pipeline) -> bool:
    return pipeline.logs().count("announced incidents taken over") >= 1


async def _paged(pager: Pager, number: int) -> bool:
    return len(pager.notified) >= number


async def _came_back(pipeline: Pipeline) -> bool:
    return any(b"AlertIncident" in one.value for one in await pipeline.read(pipeline.settings.alerts_topic))
