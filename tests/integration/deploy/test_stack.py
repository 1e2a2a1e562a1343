"""The servers and commands of docker-compose.yml, run with its settings but without containers."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from redis.asyncio import Redis

from stormfold.kafka.client import open_admin
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.process import HOST, free_port
from stormfold.local.redis import EmbeddedRedis, find_servers
from stormfold.settings import Settings
from tests.integration.deploy.files import ours
from tests.support.apiserver import WORKER, ApiServer
from tests.support.servers import until

SMALL = "windows: {gap: 2s, grace: 1s, slice: 20s}"
"""The mounted configuration with short windows."""


class ComposeKafka(EmbeddedKafka):
    """A broker with exactly the properties of the file."""

    def prepare(self) -> Sequence[str]:
        command = super().prepare()
        (self.data_dir / "server.properties").write_text(
            "".join(f"{name}={value}\n" for name, value in self._properties.items())
        )
        return command


class ComposeRedis(EmbeddedRedis):
    """A Redis with the options of the file."""

    options: Sequence[str] = ()

    def prepare(self) -> Sequence[str]:
        binary = str(find_servers()[0].path)
        return [binary, *self.options, "--bind", HOST, "--port", str(self.port), "--dir", str(self.data_dir)]


class Stack(NamedTuple):
    """The servers, and the replacements for addresses and paths of the file."""

    kafka: EmbeddedKafka
    redis: EmbeddedRedis
    properties: Mapping[str, str]
    folder: Path
    here: Mapping[str, str]

    def environment(self, service: Mapping[str, Any], **more: str) -> dict[str, str]:
        """Returns the environment of a service with addresses of this machine; `more` has further variables."""
        variables = {name: _replaced(value, self.here) for name, value in ours(service.get("environment", {})).items()}
        return os.environ | variables | more

    def run(self, service: Mapping[str, Any], *command: str, **more: str) -> str:
        """Runs a command in the service's environment; returns its output."""
        done = subprocess.run(
            command, env=self.environment(service, **more), cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, service: Mapping[str, Any], name: str, **more: str) -> subprocess.Popen[bytes]:
        """Starts the service's command, with a log in the folder."""
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                stormfold(*service["command"]),
                env=self.environment(service, **more),
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )


def stormfold(*arguments: str) -> list[str]:
    """Returns a command with the entry point of the image."""
    return [sys.executable, "-m", "stormfold", *arguments]


def _replaced(text: str, here: Mapping[str, str]) -> str:
    for there, value in here.items():
        text = text.replace(there, value)
    return text


def _properties(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns broker properties as the image derives them: `KAFKA_LOG_DIRS` becomes `log.dirs`."""
    return {
        name.removeprefix("KAFKA_").lower().replace("_", "."): str(value)
        for name, value in environment.items()
        # The start script reads this one.
        if name != "KAFKA_HEAP_OPTS"
    }


@pytest.fixture(scope="module")
def stack(services: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Kafka and Redis with the settings of the file, on free ports of this machine."""
    folder = tmp_path_factory.mktemp("stack")
    internal, external, controller, cache = free_port(), free_port(), free_port(), free_port()
    here = {
        "kafka:19092": f"{HOST}:{internal}",
        "kafka:9093": f"{HOST}:{controller}",
        "://:19092": f"://{HOST}:{internal}",
        "://:9092": f"://{HOST}:{external}",
        "://:9093": f"://{HOST}:{controller}",
        "127.0.0.1:9092": f"{HOST}:{external}",
        "/var/lib/kafka/data": "data",
        "redis:6379": f"{HOST}:{cache}",
        "/storms": str(folder / "storms"),
    }
    properties = {name: _replaced(value, here) for name, value in _properties(services["kafka"]["environment"]).items()}
    kafka = ComposeKafka(folder / "kafka", external, properties=properties)
    redis = ComposeRedis(folder / "redis", cache)
    redis.options = services["redis"]["command"][1:]
    (folder / "stormfold.yaml").write_text(SMALL)
    with ExitStack() as stop:
        for server in (kafka, redis):
            server.start()
            stop.callback(server.stop)
        yield Stack(kafka, redis, properties, folder, here)


async def test_the_broker_knows_every_property_of_the_file(stack: Stack) -> None:
    async with open_admin(Settings(kafka_bootstrap_servers=stack.kafka.bootstrap)) as admin:
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, "1")])
    ((_, _, _, _, entries),) = answer.resources
    known = {entry[0]: entry[1] for entry in entries}
    assert {name: known.get(name) for name in stack.properties} == stack.properties


async def test_redis_accepts_every_option_of_the_file(stack: Stack, services: dict[str, Any]) -> None:
    options = services["redis"]["command"][1:]
    async with Redis.from_url(stack.redis.url, decode_responses=True) as client:
        assert await client.ping()
        for name, value in zip(options[::2], options[1::2], strict=True):
            (found,) = (await client.config_get(name.removeprefix("--"))).values()
            assert found == {"512mb": str(512 * 1024**2)}.get(value, value)


async def test_every_storm_of_the_incident_is_a_manifest_and_a_resource(
    stack: Stack, services: dict[str, Any], cluster: ApiServer
) -> None:
    """Runs the topics, the worker, the emitter of profile k8s and the producer."""
    cluster.install()
    small = {"STORMFOLD_CONFIG": str(stack.folder / "stormfold.yaml")}
    assert "created" in stack.run(services["topics"], *stormfold(*services["topics"]["command"]))
    # The service runs at every start of the stack.
    stack.run(services["topics"], *stormfold(*services["topics"]["command"]))

    ports = [free_port(), free_port()]
    kubeconfig = {"STORMFOLD_KUBECONFIG": str(cluster.kubeconfig(WORKER))}
    workers = [
        stack.start(services["worker"], "worker", STORMFOLD_HTTP_ADDRESS=f"{HOST}:{ports[0]}", **small),
        stack.start(services["emit"], "emit", STORMFOLD_HTTP_ADDRESS=f"{HOST}:{ports[1]}", **small, **kubeconfig),
    ]
    try:
        async with aiohttp.ClientSession() as client:
            for port in ports:
                await until(partial(_ready, client, port), 60, what=f"ready at {port}")
        done = stack.run(services["producer"], sys.executable, *services["producer"]["entrypoint"][1:])
        assert re.search(r"Publishing an incident of [\d,]+ alerts to alerts", done)

        def storms() -> set[str]:
            return {path.name for path in (stack.folder / "storms").glob("*.yaml")}

        books = stormfold("audit", "-o", "json")

        def drained() -> bool:
            found = {f"storms.{name}.yaml" for name in cluster.storms()}
            return bool(found) and found == storms() and '"open": 0' in stack.run(services["worker"], *books, **small)

        await until(drained, 60, what="every storm is a manifest and a resource")
    finally:
        for worker in workers:
            worker.terminate()
        assert [worker.wait(30) for worker in workers] == [0, 0]


async def _ready(client: aiohttp.ClientSession, port: int) -> bool:
    """Returns whether a worker is ready."""
    try:
        async with client.get(f"http://{HOST}:{port}/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientConnectionError:
        return False
