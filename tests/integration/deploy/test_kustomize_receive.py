"""The manifests of `stormfold receive` go with every variant, and agree with the code."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from stormfold import __version__, config
from stormfold.local.process import free_port
from stormfold.receive.server import Receiver
from stormfold.settings import Settings
from tests.integration.deploy.files import (
    ALONE,
    K8S,
    MANAGED,
    RECEIVE,
    ROOT,
    Manifest,
    Programs,
    built,
    environment,
    ours,
    parse,
)
from tests.integration.deploy.manifests import dry_run, names, of, pods, variables
from tests.integration.deploy.test_docs import blocks
from tests.integration.deploy.test_kustomize import ident
from tests.integration.deploy.test_kustomize import installed as installed
from tests.support.apiserver import ApiServer

NAME = "stormfold-receive"
VARIANTS: list[tuple[Path, Sequence[Path]]] = [*((folder, ()) for folder in ALONE if folder != K8S), *MANAGED.items()]
ALERTMANAGER = ROOT / "docs" / "how-to" / "alertmanager.md"


@pytest.fixture(params=VARIANTS, ids=ident)
def manifests(tools: Programs, request: pytest.FixtureRequest) -> list[Manifest]:
    """The manifests of a variant with the receiver."""
    folder, components = request.param
    return built(tools.kustomize, folder, components, RECEIVE)


@pytest.fixture(scope="module")
def alone(tools: Programs) -> list[Manifest]:
    """The base with the receiver."""
    return built(tools.kustomize, K8S / "base", (), RECEIVE)


def receiver(manifests: list[Manifest]) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
    """Returns labels and spec of the receiver's pods, and its container."""
    ((_, labels, pod),) = (found for found in pods(manifests) if found[0] == NAME)
    (container,) = pod["containers"]
    return labels, pod, container


def test_the_receiver_knows_every_variable_and_has_the_servers_of_the_workers(
    manifests: list[Manifest], tmp_path: Path
) -> None:
    _, pod, container = receiver(manifests)
    found = variables(pod, manifests, tmp_path)
    assert found == ours(found)
    assert parse(container["args"]) == "receive"
    for name, _, worker in pods(manifests):
        if name != NAME:
            servers = variables(worker, manifests)
            assert found["STORMFOLD_KAFKA_BOOTSTRAP_SERVERS"] == servers["STORMFOLD_KAFKA_BOOTSTRAP_SERVERS"]
            assert found["STORMFOLD_CONFIG"] == servers["STORMFOLD_CONFIG"]
    with environment(found) as settings:
        assert settings.receive_bind == ("0.0.0.0", container["ports"][0]["containerPort"])
    (mounted,) = (volume["configMap"]["name"] for volume in pod["volumes"] if volume["name"] == "config")
    (data,) = (one["data"] for one in of("ConfigMap", manifests) if one["metadata"]["name"] == mounted)
    assert config.loads(data["stormfold.yaml"], "stormfold.yaml")
    assert container["image"] == f"stormfold:{__version__}"


def test_selectors_keep_receiver_and_workers_apart(manifests: list[Manifest]) -> None:
    """One Service, one disruption budget and one network policy select each pod."""
    for name, labels, pod in pods(manifests):
        assert pod["serviceAccountName"] in names("ServiceAccount", manifests)
        for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
            selectors = [one["spec"].get("podSelector", one["spec"].get("selector")) for one in of(kind, manifests)]
            chosen = [one.get("matchLabels", one) for one in selectors]
            assert sum(one.items() <= labels.items() for one in chosen) == 1, (kind, name)
        for constraint in pod["topologySpreadConstraints"]:
            assert constraint["labelSelector"]["matchLabels"] == labels


def test_the_receiver_complies_with_the_restricted_policy_and_has_no_token(
    installed: ApiServer, manifests: list[Manifest]
) -> None:
    labels, spec, container = receiver(manifests)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME, "namespace": "storms", "labels": labels},
        "spec": spec,
    }
    assert dry_run(installed, pod).status == 201
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert spec["automountServiceAccountToken"] is False


async def test_probes_use_paths_and_the_port_of_the_receiver_also_with_tokens(
    alone: list[Manifest], tmp_path: Path
) -> None:
    """Without Kafka it is alive and not ready; probes have no token."""
    _, _, container = receiver(alone)
    (tmp_path / "tokens").write_text("secret\n")
    settings = Settings(
        receive_address="127.0.0.1:0",
        receive_token_file=tmp_path / "tokens",
        kafka_bootstrap_servers=f"127.0.0.1:{free_port()}",
    )
    server = Receiver(settings, config.Config())
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as client:
            for probe, path, status in (
                ("startupProbe", "/healthz", 200),
                ("livenessProbe", "/healthz", 200),
                ("readinessProbe", "/readyz", 503),
            ):
                assert container[probe]["httpGet"] == {"path": path, "port": "http"}
                async with asyncio.timeout(container[probe].get("timeoutSeconds", 1)), client.get(path) as answer:
                    assert answer.status == status
                    assert "127.0.0.1" not in await answer.text()
    finally:
        await server.stop()


def test_the_receiver_has_time_to_answer_every_request_before_it_is_killed(alone: list[Manifest]) -> None:
    _, pod, container = receiver(alone)
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= before + 2 * Settings().delivery_timeout


def test_the_network_policy_admits_senders_and_lets_out_to_kafka_only(manifests: list[Manifest]) -> None:
    (policy,) = (one["spec"] for one in of("NetworkPolicy", manifests) if one["metadata"]["name"] == NAME)
    _, pod, _ = receiver(manifests)
    ports = [port for rule in policy["egress"] for port in rule["ports"]]
    open_ports = {number for port in ports for number in range(port["port"], port.get("endPort", port["port"]) + 1)}
    address = variables(pod, manifests)["STORMFOLD_KAFKA_BOOTSTRAP_SERVERS"]
    assert int(address.rpartition(":")[2]) in open_ports
    assert open_ports.isdisjoint({443, 6443, 6379})
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["http"]


def test_the_address_of_the_page_is_that_of_the_service(alone: list[Manifest]) -> None:
    (service,) = (one for one in of("Service", alone) if one["metadata"]["name"] == NAME)
    (port,) = service["spec"]["ports"]
    address = f"http://{NAME}.{service['metadata']['namespace']}:{port['port']}/alerts"
    assert address in ALERTMANAGER.read_text()


def test_the_files_of_the_secret_are_where_the_page_names_them(alone: list[Manifest]) -> None:
    """The variables of the page arrive at the receiver alone: a worker would refuse a file that it lacks."""
    (text,) = (block for block in blocks(ROOT / "docs" / "how-to" / "deploy.md", "yaml") if "TOKEN_FILE" in block)
    (mount,) = (one for one in receiver(alone)[2]["volumeMounts"] if one["name"] == "receive")
    for name, path in re.findall(r"(STORMFOLD_\w+_FILE)=(\S+)", text):
        assert name.lower().removeprefix("stormfold_") in Settings.model_fields
        assert path.startswith(mount["mountPath"] + "/")
    (generator,) = yaml.safe_load(text)["configMapGenerator"]
    assert generator["name"] == NAME and generator["behavior"] == "merge"


def test_prometheus_finds_the_receiver_under_a_job_of_its_own(tools: Programs, alone: list[Manifest]) -> None:
    """The rules for workers do not take it for one."""
    (monitor,) = of("PodMonitor", built(tools.kustomize, K8S / "overlays" / "monitoring"))
    (expression,) = monitor["spec"]["selector"]["matchExpressions"]
    labels, _, container = receiver(alone)
    assert labels[expression["key"]] in expression["values"]
    assert labels[monitor["spec"]["jobLabel"]] == NAME
    assert container["ports"][0]["name"] == monitor["spec"]["podMetricsEndpoints"][0]["port"]
