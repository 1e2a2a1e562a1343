"""docker-compose.yml and .env agree with the code, and Docker Compose accepts them."""

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
from tests.integration.deploy.test_docs import blocks
from tests.support import alertmanager

PROFILES = {"producer": {"producer"}, "k8s": {"k3s", "kube-access", "emit"}}
"""Profile → services that it adds."""
OWN = ("topics", "worker", "receive", "producer", "emit")
"""Services that run the image of this repository."""
ENV_FILE = dict(line.split("=", 1) for line in (ROOT / ".env").read_text().splitlines() if not line.startswith("#"))


def test_the_file_follows_the_compose_specification() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_docker_compose_accepts_the_file_without_warnings(tools: Programs, services: dict[str, Any]) -> None:
    """Compose's own loader reads it and, where Docker has the plugin, `docker compose config` too."""
    plain = subprocess.run([tools.compose, ROOT], capture_output=True, text=True, check=True).stdout
    base = set(json.loads(plain)["services"])
    assert base == set(services) - set().union(*PROFILES.values())
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        done = subprocess.run(
            [docker, "compose", "config", "--format", "json"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert set(json.loads(done.stdout)["services"]) == base


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_adds_its_services_to_the_others(tools: Programs, services: dict[str, Any], profile: str) -> None:
    done = subprocess.run([tools.compose, ROOT, profile], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    others = set().union(*(names for name, names in PROFILES.items() if name != profile))
    assert set(json.loads(done.stdout)["services"]) == set(services) - others


def test_every_image_has_a_version_from_env_that_agrees_with_the_project(services: dict[str, Any]) -> None:
    """The worker has the project's version, Kafka the one that the tests use."""
    written = yaml.safe_load(COMPOSE.read_text())["services"]
    for name, service in services.items():
        assert re.fullmatch(r"[^$]+:\$\{[A-Z0-9_]+_TAG\}", written[name]["image"]), name
        assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), name
    assert ENV_FILE["WORKER_TAG"] == __version__
    assert ENV_FILE["KAFKA_TAG"] == kafka.VERSION
    assert ENV_FILE["ALERTMANAGER_TAG"] == alertmanager.VERSION
    assert f"python:{ENV_FILE['PYTHON_TAG']}" in DOCKERFILE.read_text()


def test_the_env_file_has_only_image_versions_and_all_are_used() -> None:
    text = COMPOSE.read_text()
    for name, value in ENV_FILE.items():
        assert f"${{{name}}}" in text, name
        assert re.fullmatch(r"v?\d+\.\d+\.\d+(-[a-z0-9-]+)?", value), name


def test_ports_are_published_on_this_machine_only(services: dict[str, Any]) -> None:
    listens = {"kafka": 9092, "redis": 6379, "worker": 8080, "receive": 9095, "k3s": 6443}
    listens |= {"prometheus": 9090, "alertmanager": 9093, "grafana": 3000}
    for name, service in services.items():
        ports = service.get("ports", [])
        assert all(port["host_ip"] == "127.0.0.1" for port in ports), name
        assert [port["target"] for port in ports] == ([listens[name]] if name in listens else []), name
        assert all(port["published"] == str(port["target"]) for port in ports), name


def test_the_workers_variables_are_known_and_name_the_servers_of_the_file(
    services: dict[str, Any], tmp_path: Path
) -> None:
    listeners = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    for name in OWN:
        variables = ours(services[name]["environment"])
        assert variables == services[name]["environment"], name
        if "STORMFOLD_KUBECONFIG" in variables:
            # The worker needs the file when it starts.
            (tmp_path / "config").touch()
            variables["STORMFOLD_KUBECONFIG"] = str(tmp_path / "config")
        with environment(variables) as settings:
            assert f"//{settings.kafka_bootstrap_servers}," in f"{listeners},", name
            assert settings.redis_url == "redis://redis:6379/0"
            assert settings.stage_names == (STAGES if name != "emit" else ("emit",))


def test_the_two_emitters_have_different_consumer_groups(services: dict[str, Any]) -> None:
    """Each of them writes every storm."""
    with environment(ours(services["worker"]["environment"])) as worker:
        group = worker.consumer_group("emit")
    assert services["emit"]["environment"]["STORMFOLD_GROUP_PREFIX"] + "-emit" != group
    assert services["kafka-exporter"]["command"][2] == f"--group.filter=^{worker.group_prefix}-"


def test_the_commands_of_the_containers_exist(services: dict[str, Any]) -> None:
    assert parse(services["topics"]["command"]) == "topics"
    assert parse(services["worker"]["command"]) == parse(services["emit"]["command"]) == "worker"
    assert parse(services["receive"]["command"]) == "receive"
    assert services["producer"]["entrypoint"] == ["python", "-m", "stormfold.local.publish_incident"]


def test_every_service_waits_for_the_services_that_it_needs(services: dict[str, Any]) -> None:
    """So one command starts everything from nothing."""
    waits = {
        name: {other: need["condition"] for other, need in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }
    assert waits["topics"] == {"kafka": "service_healthy"}
    assert waits["receive"] == {"topics": "service_completed_successfully"}
    assert waits["worker"] == {"topics": "service_completed_successfully", "redis": "service_healthy"}
    assert waits["emit"] == waits["worker"] | {"kube-access": "service_completed_successfully"}
    assert waits["kube-access"] == {"k3s": "service_healthy"}
    assert waits["producer"] == {"worker": "service_healthy"}
    for name, needs in waits.items():
        for other, condition in needs.items():
            if condition == "service_healthy":
                # The worker has its health check in its image.
                assert "healthcheck" in services[other] or other == "worker", f"{name} waits for {other}"
            else:
                assert services[other]["restart"] == "no", other


def test_every_long_running_service_has_a_health_check(services: dict[str, Any]) -> None:
    """The worker has it in its image, all others in this file."""
    for name, service in services.items():
        stays = service["restart"] != "no"
        check = service.get("healthcheck", {})
        # The emitter is a worker.
        assert bool(check.get("test")) == (stays and name not in ("worker", "emit")), name
        assert stays or check == {"disable": True} or name == "kube-access", name
        if "wget" in check.get("test", []):
            # An image with only the program has no wget.
            assert name != "redis-exporter" or service["image"].endswith("-alpine")
            assert not service.get("command") or "web.listen" not in "".join(service["command"]), name
        # Docker 20.10 does not know it, and Docker Compose refuses the whole file there.
        assert "start_interval" not in check, name


def test_kafka_and_the_java_process_of_its_health_check_fit_the_memory_limit(services: dict[str, Any]) -> None:
    test = services["kafka"]["healthcheck"]["test"]
    found = [
        re.findall(r"-Xmx(\d+)m", text)[0] for text in (test[2], services["kafka"]["environment"]["KAFKA_HEAP_OPTS"])
    ]
    assert test[1] == "env" and test[2].startswith("KAFKA_HEAP_OPTS=")
    # A broker needs half as much memory again as its heap.
    assert int(found[0]) + 1.5 * int(found[1]) <= int(services["kafka"]["mem_limit"]) / 2**20


@pytest.mark.parametrize(("answer", "code"), [(b"+PONG\r\n", 0), (b"-LOADING Redis is loading the dataset\r\n", 1)])
async def test_a_redis_that_is_loading_is_not_healthy(services: dict[str, Any], answer: bytes, code: int) -> None:
    """The health check accepts a PONG, not an error."""

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
        process = await asyncio.create_subprocess_exec(
            program, "-h", HOST, "-p", str(port), *arguments, stdout=asyncio.subprocess.DEVNULL
        )
        assert await asyncio.wait_for(process.wait(), 10) == code


def test_mounted_files_exist_and_are_read_only(services: dict[str, Any]) -> None:
    """A mounted configuration is valid."""
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


def test_data_that_must_outlive_a_container_is_in_a_named_volume(services: dict[str, Any]) -> None:
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


def test_no_service_has_privileges_or_unlimited_memory(services: dict[str, Any]) -> None:
    """Only Kafka and k3s have a writable root file system."""
    for name, service in services.items():
        assert not service.get("privileged"), name
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service.get("read_only") or name in ("kafka", "k3s"), name


def test_redis_refuses_writes_before_the_kernel_kills_it(services: dict[str, Any]) -> None:
    """This holds even while it rewrites its append-only file."""
    command = services["redis"]["command"]
    assert command[command.index("--maxmemory") + 1] == "512mb"
    assert int(services["redis"]["mem_limit"]) >= 2 * 512 * 1024**2


def test_a_worker_has_the_memory_limit_of_the_kubernetes_deployment(services: dict[str, Any]) -> None:
    deployment = yaml.safe_load((K8S / "base" / "worker" / "deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20
    assert all(int(services[name]["mem_limit"]) == limit for name in OWN)


def test_alerts_go_from_prometheus_through_alertmanager_to_the_receiver(services: dict[str, Any]) -> None:
    """With the configuration that the page shows."""
    prometheus = yaml.safe_load((K8S / "monitoring" / "prometheus.yml").read_text())
    (found,) = prometheus["alerting"]["alertmanagers"]
    assert found == {"static_configs": [{"targets": ["alertmanager:9093"]}]}
    (mount,) = (one for one in services["alertmanager"]["volumes"] if one["type"] == "bind")
    text = (ROOT / mount["source"]).read_text().replace("http://receive:9095/", "http://127.0.0.1:9095/")
    shown = [yaml.safe_load(block) for block in blocks(ROOT / "docs" / "how-to" / "alertmanager.md", "yaml")]
    assert yaml.safe_load(text) in shown


def test_the_topics_service_creates_the_topics_that_workers_use(services: dict[str, Any]) -> None:
    with (
        environment(ours(services["topics"]["environment"])) as made,
        environment(ours(services["worker"]["environment"])) as used,
    ):
        assert [topic.name for topic in topics(made)] == [topic.name for topic in topics(used)]
