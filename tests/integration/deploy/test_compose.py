"""docker-compose.yml and .env say what the code says, and Docker Compose understands them."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stormfold import __version__, config
from stormfold.kafka.topics import topics
from stormfold.local import kafka
from stormfold.local.process import HOST
from stormfold.settings import STAGES
from tests.integration.deploy.files import COMPOSE, DOCKERFILE, K8S, ROOT, Programs, environment, ours, parse

PROFILES = {"producer": {"producer"}, "k8s": {"k3s", "kube-access", "emit"}}
"""What each adds."""
OWN = ("topics", "worker", "producer", "emit")
"""Services of the image that is built here."""
ENV_FILE = dict(line.split("=", 1) for line in (ROOT / ".env").read_text().splitlines() if not line.startswith("#"))


def test_schema() -> None:
    """The file is what the Compose specification allows."""
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    said = subprocess.run(check, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout


def test_docker_compose_reads_it(tools: Programs, services: dict[str, Any]) -> None:
    """Compose's own loader takes it without a warning; where Docker has its plugin, so does `docker compose config`."""
    plain = subprocess.run([tools.compose, ROOT], capture_output=True, text=True, check=True).stdout
    base = set(json.loads(plain)["services"])
    assert base == set(services) - set().union(*PROFILES.values())
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        said = subprocess.run(
            [docker, "compose", "config", "--format", "json"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert set(json.loads(said.stdout)["services"]) == base


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles(tools: Programs, services: dict[str, Any], profile: str) -> None:
    """A profile adds what it is for, to everything else; whatever one starts, it finds what it depends on."""
    said = subprocess.run([tools.compose, ROOT, profile], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    others = set().union(*(names for name, names in PROFILES.items() if name != profile))
    assert set(json.loads(said.stdout)["services"]) == set(services) - others


def test_versions(services: dict[str, Any]) -> None:
    """Every image has one version, from .env; ours is the project's, Kafka's the one that everything is tested with."""
    written = yaml.safe_load(COMPOSE.read_text())["services"]
    for name, service in services.items():
        assert re.fullmatch(r"[^$]+:\$\{[A-Z0-9_]+_TAG\}", written[name]["image"]), name
        assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), name
    assert ENV_FILE["WORKER_TAG"] == __version__
    assert ENV_FILE["KAFKA_TAG"] == kafka.VERSION
    assert f"python:{ENV_FILE['PYTHON_TAG']}" in DOCKERFILE.read_text()


def test_env_file_is_used_and_only_versions() -> None:
    """Nothing in .env is unused, and nothing in it is a secret: versions of images only."""
    text = COMPOSE.read_text()
    for name, value in ENV_FILE.items():
        assert f"${{{name}}}" in text, name
        assert re.fullmatch(r"v?\d+\.\d+\.\d+(-[a-z0-9-]+)?", value), name


def test_only_this_machine(services: dict[str, Any]) -> None:
    """No port is open to the network, and each leads to where something listens."""
    listens = {"kafka": 9092, "redis": 6379, "worker": 8080, "k3s": 6443, "prometheus": 9090, "grafana": 3000}
    for name, service in services.items():
        ports = service.get("ports", [])
        assert all(port["host_ip"] == "127.0.0.1" for port in ports), name
        assert [port["target"] for port in ports] == ([listens[name]] if name in listens else []), name
        assert all(port["published"] == str(port["target"]) for port in ports), name


def test_variables(services: dict[str, Any], tmp_path: Path) -> None:
    """The workers' variables are known and lead to the servers of this file."""
    listeners = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    for name in OWN:
        variables = ours(services[name]["environment"])
        assert variables == services[name]["environment"], name
        if "STORMFOLD_KUBECONFIG" in variables:
            # It has to be there when the worker starts.
            (tmp_path / "config").touch()
            variables["STORMFOLD_KUBECONFIG"] = str(tmp_path / "config")
        with environment(variables) as settings:
            assert f"//{settings.kafka_bootstrap_servers}," in f"{listeners},", name
            assert settings.redis_url == "redis://redis:6379/0"
            assert settings.stage_names == (STAGES if name != "emit" else ("emit",))


def test_emitters_do_not_share(services: dict[str, Any]) -> None:
    """The emitter of profile k8s has a consumer group of its own: each of the two writes every storm."""
    with environment(ours(services["worker"]["environment"])) as worker:
        mine = worker.consumer_group("emit")
    assert services["emit"]["environment"]["STORMFOLD_GROUP_PREFIX"] + "-emit" != mine
    assert services["kafka-exporter"]["command"][2] == f"--group.filter=^{worker.group_prefix}-"


def test_commands(services: dict[str, Any]) -> None:
    """What the containers run exists, with these options."""
    assert parse(services["topics"]["command"]) == "topics"
    assert parse(services["worker"]["command"]) == parse(services["emit"]["command"]) == "worker"
    assert services["producer"]["entrypoint"] == ["python", "-m", "stormfold.local.publish_incident"]


def test_order(services: dict[str, Any]) -> None:
    """One command works from nothing: everybody waits for what it needs, and that says when it is well."""
    waits = {
        name: {other: need["condition"] for other, need in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }
    assert waits["topics"] == {"kafka": "service_healthy"}
    assert waits["worker"] == {"topics": "service_completed_successfully", "redis": "service_healthy"}
    assert waits["emit"] == waits["worker"] | {"kube-access": "service_completed_successfully"}
    assert waits["kube-access"] == {"k3s": "service_healthy"}
    assert waits["producer"] == {"worker": "service_healthy"}
    for name, needs in waits.items():
        for other, condition in needs.items():
            if condition == "service_healthy":
                # The worker's check is in its image.
                assert "healthcheck" in services[other] or other == "worker", f"{name} waits for {other}"
            else:
                assert services[other]["restart"] == "no", other


def test_health(services: dict[str, Any]) -> None:
    """Whatever stays says whether it is well: the worker by its image, everything else by this file."""
    for name, service in services.items():
        stays = service["restart"] != "no"
        check = service.get("healthcheck", {})
        # The emitter is a worker.
        assert bool(check.get("test")) == (stays and name not in ("worker", "emit")), name
        assert stays or check == {"disable": True} or name == "kube-access", name
        if "wget" in check.get("test", []):
            # There is none in an image that is nothing but its program.
            assert name != "redis-exporter" or service["image"].endswith("-alpine")
            assert not service.get("command") or "listen" not in "".join(service["command"]), name


def test_kafka_and_its_health_check_fit(services: dict[str, Any]) -> None:
    """The Java machine that asks the broker has a heap of its own: with the broker's, both would not fit."""
    test = services["kafka"]["healthcheck"]["test"]
    found = [
        re.findall(r"-Xmx(\d+)m", text)[0] for text in (test[2], services["kafka"]["environment"]["KAFKA_HEAP_OPTS"])
    ]
    assert test[1] == "env" and test[2].startswith("KAFKA_HEAP_OPTS=")
    # Half as much again as the heap for what a broker has beside it.
    assert int(found[0]) + 1.5 * int(found[1]) <= int(services["kafka"]["mem_limit"]) / 2**20


@pytest.mark.parametrize(("answer", "code"), [(b"+PONG\r\n", 0), (b"-LOADING Redis is loading the dataset\r\n", 1)])
async def test_redis_that_loads_is_not_healthy(services: dict[str, Any], answer: bytes, code: int) -> None:
    """The health check takes a pong, not an error: a Redis that still reads its file says so to everything."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(answer)
        writer.close()

    _, program, *arguments = services["redis"]["healthcheck"]["test"]
    assert [program, *arguments] == ["redis-cli", "-e", "ping"]
    if shutil.which(program) is None:
        return
    async with await asyncio.start_server(talk, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        asked = await asyncio.create_subprocess_exec(
            program, "-h", HOST, "-p", str(port), *arguments, stdout=asyncio.subprocess.DEVNULL
        )
        assert await asyncio.wait_for(asked.wait(), 10) == code


def test_files(services: dict[str, Any]) -> None:
    """What is mounted from here exists and is read-only; a configuration is one that the worker takes."""
    for name, service in services.items():
        binds = {mount["target"]: mount for mount in service.get("volumes", []) if mount["type"] == "bind"}
        for target, mount in binds.items():
            source = ROOT / mount["source"]
            assert source.exists() and mount["read_only"], f"{name}: {target}"
        wanted = service.get("environment", {}).get("STORMFOLD_CONFIG")
        if wanted:
            assert config.load(ROOT / binds[wanted]["source"])
    applied = {mount["source"].rpartition("/")[2] for mount in services["k3s"]["volumes"] if mount["type"] == "bind"}
    assert applied == {"crd.yaml", "rbac.yaml"}


def test_data_survives(services: dict[str, Any]) -> None:
    """What must outlive a container is in a named volume, at the path that its program writes to."""
    volumes = {
        name: {mount["target"] for mount in service.get("volumes", []) if mount["type"] == "volume"}
        for name, service in services.items()
    }
    assert volumes["kafka"] == {services["kafka"]["environment"]["KAFKA_LOG_DIRS"]}
    assert volumes["redis"] == {"/data"}
    assert services["worker"]["environment"]["STORMFOLD_SINK"] == f"directory:{min(volumes['worker'])}"
    assert set(yaml.safe_load(COMPOSE.read_text())["volumes"]) == {
        mount["source"]
        for service in services.values()
        for mount in service.get("volumes", [])
        if mount["type"] == "volume"
    }


def test_confined(services: dict[str, Any]) -> None:
    """Nothing runs with privileges; ours not even with a writable root; memory of all is bounded."""
    for name, service in services.items():
        assert not service.get("privileged"), name
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service.get("read_only") or name in ("kafka", "k3s"), name


def test_redis_fits_its_container(services: dict[str, Any]) -> None:
    """Redis refuses before the kernel kills it, even while it rewrites its append-only file."""
    command = services["redis"]["command"]
    assert command[command.index("--maxmemory") + 1] == "512mb"
    assert int(services["redis"]["mem_limit"]) >= 2 * 512 * 1024**2


def test_a_worker_may_have_as_much_as_in_kubernetes(services: dict[str, Any]) -> None:
    """The limit is the Deployment's, which is compared with what was measured."""
    deployment = yaml.safe_load((K8S / "base" / "worker" / "deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20
    assert all(int(services[name]["mem_limit"]) == limit for name in OWN)


def test_topics_are_all_there_are(services: dict[str, Any]) -> None:
    """Workers find the topics that the one-shot makes: both take the same names."""
    with (
        environment(ours(services["topics"]["environment"])) as made,
        environment(ours(services["worker"]["environment"])) as used,
    ):
        assert [topic.name for topic in topics(made)] == [topic.name for topic in topics(used)]
