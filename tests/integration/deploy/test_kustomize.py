"""The manifests of `kubectl apply -k` are accepted by a real API server, and agree with the code."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from stormfold import __version__, config
from stormfold.health import Health
from stormfold.kafka.topics import PARTITIONS
from stormfold.local.process import free_port
from stormfold.settings import STAGES, Settings
from stormfold.web.server import Web
from tests.benchmarks.results import load
from tests.integration.deploy.files import (
    ALONE,
    K8S,
    KEDA,
    MANAGED,
    OVERLAYS,
    ROOT,
    Manifest,
    Programs,
    built,
    environment,
    module,
    ours,
    parse,
)
from tests.integration.deploy.manifests import CREDENTIALS, dry_run, names, of, pods, variables
from tests.integration.monitoring.rules import JOB
from tests.support.apiserver import ApiServer
from tests.support.workers import STOP_SECONDS

WITH_COMPONENTS: list[tuple[Path, Sequence[Path]]] = [*((folder, ()) for folder in ALONE), *MANAGED.items()]


def ident(variant: tuple[Path, Sequence[Path]]) -> str:
    """Returns the name of a variant for the list of tests."""
    folder, components = variant
    return " + ".join([str(folder.relative_to(ROOT)), *(path.name for path in components)])


@pytest.fixture(params=WITH_COMPONENTS, ids=ident)
def deployment(tools: Programs, request: pytest.FixtureRequest) -> list[Manifest]:
    """The manifests of one complete variant."""
    return built(tools.kustomize, *request.param)


@pytest.fixture(params=[(K8S / "base", ()), *((folder, ()) for folder in OVERLAYS), *MANAGED.items()], ids=ident)
def manifests(tools: Programs, request: pytest.FixtureRequest) -> list[Manifest]:
    """The manifests of one folder."""
    return built(tools.kustomize, *request.param)


@pytest.fixture(scope="session")
def installed(tools: Programs, cluster: ApiServer) -> ApiServer:
    """The API server with the definition of storms and the namespace of the base."""
    cluster.install()
    cluster.apply(*of("Namespace", built(tools.kustomize, K8S / "base")))
    return cluster


def mebibytes(quantity: str) -> int:
    """Parses a quantity of memory in MiB, the only unit of these manifests."""
    assert quantity.endswith("Mi")
    return int(quantity.removesuffix("Mi"))


def test_accepted(installed: ApiServer, manifests: list[Manifest]) -> None:
    """The API server takes every manifest; there is none twice."""
    for manifest in manifests:
        answer = dry_run(installed, manifest)
        assert answer.status in (200, 201), (manifest["kind"], manifest["metadata"]["name"], answer.body)
    assert max(Counter((one["kind"], one["metadata"]["name"]) for one in manifests).values()) == 1


@pytest.mark.parametrize(
    ("overlay", "kind"),
    [
        ("stages", "Deployment"),
        ("keda", "ScaledObject"),
        ("monitoring", "PodMonitor"),
        ("monitoring", "PrometheusRule"),
    ],
)
def test_the_dry_run_refuses_misspelled_fields(installed: ApiServer, tools: Programs, overlay: str, kind: str) -> None:
    """It does so for kinds of Kubernetes and of operators."""
    for one in of(kind, built(tools.kustomize, K8S / "overlays" / overlay)):
        assert dry_run(installed, one).status in (200, 201)
        one["spec"]["repilcas"] = 1
        answer = dry_run(installed, one)
        assert answer.status >= 400 and "repilcas" in answer.body["message"]


def test_pods_comply_with_the_restricted_policy_that_the_namespace_enforces(
    installed: ApiServer, deployment: list[Manifest]
) -> None:
    for name, labels, spec in pods(deployment):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "storms", "labels": labels},
            "spec": spec,
        }
        assert dry_run(installed, pod).status == 201
        for part in (spec, spec["containers"][0]):
            kept = part.pop("securityContext")
            answer = dry_run(installed, pod)
            assert answer.status == 403 and "PodSecurity" in answer.body["message"]
            part["securityContext"] = kept
        assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"]


def test_the_files_in_k8s_are_links_to_those_of_the_base() -> None:
    for name in ("crd.yaml", "rbac.yaml"):
        assert (K8S / name).resolve() == K8S / "base" / "common" / name


def test_workers_know_every_variable_and_accept_the_mounted_configuration(
    deployment: list[Manifest], tmp_path: Path
) -> None:
    stages = Counter[str]()
    for _, _, pod in pods(deployment):
        found = variables(pod, deployment, tmp_path)
        assert found == ours(found)
        with environment(found) as settings:
            stages.update(settings.stage_names)
            assert settings.sink == "kubernetes"
            folder, name = os.path.split(settings.config or "")
        (container,) = pod["containers"]
        (mount,) = (one for one in container["volumeMounts"] if one["mountPath"] == folder)
        (volume,) = (one for one in pod["volumes"] if one["name"] == mount["name"])
        (data,) = (
            one["data"] for one in of("ConfigMap", deployment) if one["metadata"]["name"] == volume["configMap"]["name"]
        )
        assert config.loads(data[name], name).windows == config.Config().windows
        assert parse(container["args"]) == "worker"
    assert stages == Counter(STAGES), "each stage runs somewhere, once"


def test_every_object_that_a_manifest_names_exists(deployment: list[Manifest]) -> None:
    for name, labels, pod in pods(deployment):
        assert pod["serviceAccountName"] in names("ServiceAccount", deployment)
        for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
            selectors = [one["spec"].get("podSelector", one["spec"].get("selector")) for one in of(kind, deployment)]
            chosen = [one.get("matchLabels", one) for one in selectors]
            assert sum(one.items() <= labels.items() for one in chosen) == 1, (kind, name)
        for constraint in pod["topologySpreadConstraints"]:
            assert constraint["labelSelector"]["matchLabels"] == labels
        (container,) = pod["containers"]
        assert container["image"] == f"stormfold:{__version__}"


def test_a_worker_has_enough_time_to_start_and_to_stop(deployment: list[Manifest]) -> None:
    for _, _, pod in pods(deployment):
        assert pod["terminationGracePeriodSeconds"] > 2 * STOP_SECONDS
        startup = pod["containers"][0]["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 60


def test_the_measured_memory_of_a_worker_is_below_its_request(deployment: list[Manifest]) -> None:
    """The limit is half as large again."""
    latency = load().latency
    assert latency
    peak = max(size for taken in latency.catch_up for size in taken.resident)
    for _, _, pod in pods(deployment):
        resources = pod["containers"][0]["resources"]
        request, limit = (mebibytes(resources[part]["memory"]) * 2**20 for part in ("requests", "limits"))
        assert peak < request
        assert 1.5 * request <= limit


async def test_probes_and_the_pod_monitor_use_paths_and_the_port_of_the_worker(tools: Programs) -> None:
    manifests = built(tools.kustomize, K8S / "base")
    ((_, _, pod),) = pods(manifests)
    (container,) = pod["containers"]
    with environment(variables(pod, manifests)) as settings:
        assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"http": settings.http_bind[1]}
    port = free_port()
    web = Web(("127.0.0.1", port), Health())
    await web.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            for probe, path in (
                ("startupProbe", "/healthz"),
                ("livenessProbe", "/healthz"),
                ("readinessProbe", "/readyz"),
            ):
                assert container[probe]["httpGet"] == {"path": path, "port": "http"}
                async with client.get(path) as answer:
                    assert answer.status == 200
            (monitor,) = of("PodMonitor", built(tools.kustomize, K8S / "overlays" / "monitoring"))
            (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
            assert endpoint["port"] == "http"
            async with client.get(endpoint["path"]) as answer:
                assert "stormfold_" in await answer.text()
    finally:
        await web.stop()


def test_only_workers_that_write_storms_have_a_token_and_only_for_their_namespace(
    deployment: list[Manifest], tmp_path: Path
) -> None:
    for _, _, pod in pods(deployment):
        with environment(variables(pod, deployment, tmp_path)) as settings:
            assert pod.get("automountServiceAccountToken", True) == ("emit" in settings.stage_names)
    assert not of("ClusterRole", deployment) and not of("ClusterRoleBinding", deployment)
    assert not of("Secret", deployment)


@pytest.mark.parametrize("variant", [(K8S / "overlays" / "managed", ()), *MANAGED.items()], ids=ident)
def test_credentials_come_from_a_secret_outside_the_manifests_and_tls_is_on(
    tools: Programs, tmp_path: Path, variant: tuple[Path, Sequence[Path]]
) -> None:
    manifests = built(tools.kustomize, *variant)
    assert not any(CREDENTIALS.keys() & one["data"].keys() for one in of("ConfigMap", manifests))
    text = (K8S / "components" / "managed" / "kustomization.yaml").read_text()
    assert all(name in text for name in CREDENTIALS)
    for _, _, pod in pods(manifests):
        with environment(variables(pod, manifests, tmp_path)) as settings:
            assert settings.kafka_security_protocol == "SASL_SSL" and settings.redis_url.startswith("rediss://")
            assert settings.kafka_ssl_cafile and settings.redis_ssl_cafile


@pytest.mark.parametrize("overlay", ["keda", "stages-keda"])
def test_keda_uses_the_credentials_of_the_workers(tools: Programs, overlay: str) -> None:
    folder = K8S / "overlays" / overlay
    manifests = built(tools.kustomize, folder, MANAGED[folder])
    (login,) = of("TriggerAuthentication", manifests)
    taken = {one["parameter"]: (one["name"], one["key"]) for one in login["spec"]["secretTargetRef"]}
    assert taken == {
        "username": ("stormfold-credentials", "STORMFOLD_KAFKA_SASL_USERNAME"),
        "password": ("stormfold-credentials", "STORMFOLD_KAFKA_SASL_PASSWORD"),
        "ca": ("stormfold-tls", "kafka-ca.crt"),
    }
    source = (module(KEDA) / "pkg" / "scalers" / "kafka_scaler.go").read_text()
    for _, _, pod in pods(manifests):
        found = variables(pod, manifests)
        assert taken["username"][1] in found and taken["password"][1] in found
        assert found["STORMFOLD_KAFKA_SSL_CAFILE"].endswith(f"/{taken['ca'][1]}")
    for scaled in of("ScaledObject", manifests):
        for trigger in scaled["spec"]["triggers"]:
            assert trigger["authenticationRef"] == {"name": login["metadata"]["name"]}
            assert trigger["metadata"]["tls"] == "enable"
            assert (
                trigger["metadata"]["sasl"]
                == {"SCRAM-SHA-512": "scram_sha512"}[found["STORMFOLD_KAFKA_SASL_MECHANISM"]]
            )
            for name, value in (*((name, "") for name in taken), *trigger["metadata"].items()):
                (options,) = re.findall(rf'keda:"name={name.removesuffix("FromEnv")},([^"]*)"', source)
                where = "authParams" if name in taken else "triggerMetadata"
                assert where in options
                assert "enum=" not in options or value in options.partition("enum=")[2].split(";")


def test_the_network_policy_opens_exactly_the_configured_ports(deployment: list[Manifest]) -> None:
    (policy,) = (one["spec"] for one in of("NetworkPolicy", deployment))
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    open_ports = {
        number
        for rule in policy["egress"]
        for port in rule["ports"]
        for number in range(port["port"], port.get("endPort", port["port"]) + 1)
    }
    for _, _, pod in pods(deployment):
        found = variables(pod, deployment)
        for address in (found["STORMFOLD_KAFKA_BOOTSTRAP_SERVERS"], found["STORMFOLD_REDIS_URL"].rpartition("/")[0]):
            assert int(address.rpartition(":")[2]) in open_ports
    assert {53, 443, 6443} <= open_ports
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["http"]


def test_the_pod_monitor_selects_the_pods_of_every_variant(tools: Programs) -> None:
    """It gives them the job label of the alert rules."""
    (monitor,) = of("PodMonitor", built(tools.kustomize, K8S / "overlays" / "monitoring"))
    for variant in WITH_COMPONENTS:
        for _, labels, pod in pods(built(tools.kustomize, *variant)):
            (expression,) = monitor["spec"]["selector"]["matchExpressions"]
            assert expression["operator"] == "In" and labels[expression["key"]] in expression["values"]
            assert labels[monitor["spec"]["jobLabel"]] == JOB
            assert monitor["metadata"]["namespace"] == "storms"
            assert pod["containers"][0]["ports"][0]["name"] == monitor["spec"]["podMetricsEndpoints"][0]["port"]


def test_grafana_gets_every_dashboard(tools: Programs) -> None:
    (found,) = of("ConfigMap", built(tools.kustomize, K8S / "overlays" / "monitoring"))
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["data"] == {path.name: path.read_text() for path in (K8S / "monitoring" / "dashboards").iterdir()}


@pytest.mark.parametrize("overlay", ["keda", "stages-keda"])
def test_workers_are_scaled_by_the_lag_of_their_topics_up_to_the_partitions(tools: Programs, overlay: str) -> None:
    manifests = built(tools.kustomize, K8S / "overlays" / overlay)
    settings = Settings()
    # KEDA's definition accepts any metadata in a trigger; its source has the valid names.
    source = (module(KEDA) / "pkg" / "scalers" / "kafka_scaler.go").read_text()
    known = set(re.findall(r'keda:"name=(\w+),', source))
    topics = {"intake": settings.alerts_topic, "fold": settings.keyed_topic, "emit": settings.storms_topic}
    deployments = {one["metadata"]["name"]: one for one in of("Deployment", manifests)}
    for scaled in of("ScaledObject", manifests):
        spec = scaled["spec"]
        target = deployments.pop(spec["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"]
        assert spec["maxReplicaCount"] == PARTITIONS
        found = variables(target["spec"]["template"]["spec"], manifests)
        with environment(found) as worker:
            read = [stage for stage in worker.stage_names if stage in topics]
        triggers = [trigger["metadata"] for trigger in spec["triggers"]]
        assert [trigger["topic"] for trigger in triggers] == [topics[stage] for stage in read]
        assert [trigger["consumerGroup"] for trigger in triggers] == [settings.consumer_group(stage) for stage in read]
        assert all(trigger["bootstrapServersFromEnv"] in found for trigger in triggers)
        assert {key.removesuffix("FromEnv") for trigger in triggers for key in trigger} <= known
    # The stage close reads no topic.
    assert {name: one["spec"]["replicas"] for name, one in deployments.items()} in ({}, {"stormfold-close": 2})
