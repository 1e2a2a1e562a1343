"""The Helm chart makes the objects of the kustomize base, changes them as its values describe, and can be installed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stormfold import __version__, config
from tests.docs import chart_values
from tests.integration.deploy.files import CHART, K8S, Manifest, Programs, built, environment
from tests.integration.deploy.helm import Helm, HelmError
from tests.integration.deploy.manifests import names, of, pods, variables

HASH = re.compile(r"^(stormfold(?:-environment|-receive)?)-[bcdfghkmt24-9]{10}$")
"""Kustomize adds a hash to the names of its ConfigMaps."""
MANAGED_VALUES = {
    "environment": {
        "STORMFOLD_KAFKA_BOOTSTRAP_SERVERS": "kafka-bootstrap.kafka:9094",
        "STORMFOLD_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "STORMFOLD_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "STORMFOLD_KAFKA_SSL_CAFILE": "/etc/stormfold-tls/kafka-ca.crt",
        "STORMFOLD_REDIS_URL": "rediss://redis.redis:6380/0",
        "STORMFOLD_REDIS_SSL_CAFILE": "/etc/stormfold-tls/redis-ca.crt",
    },
    "credentials": {"required": True},
    "tls": {"secret": "stormfold-tls"},
}
"""The values that make of the chart the overlay `managed`."""


@pytest.fixture(scope="module")
def helm(tools: Programs, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster."""
    return Helm(tools.helm, tmp_path_factory.mktemp("helm"))


def without_hashes(value: Any) -> Any:
    """Removes kustomize's hashes from all names in an object."""
    match value:
        case dict():
            return {key: without_hashes(inner) for key, inner in value.items()}
        case list():
            return [without_hashes(inner) for inner in value]
        case str():
            return HASH.sub(r"\1", value)
    return value


def comparable(manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    """Returns the objects by kind and name, without the differences that are intended.

    The namespace is Helm's to create; ConfigMaps have no hash in their names, but pods have a checksum of them; Helm
    keeps definitions when a release is uninstalled.
    """
    found = {}
    for one in without_hashes([one for one in manifests if one["kind"] != "Namespace"]):
        if one["kind"] == "CustomResourceDefinition":
            assert one["metadata"].pop("annotations", None) in (None, {"helm.sh/resource-policy": "keep"})
        if one["kind"] == "Deployment":
            annotations = one["spec"]["template"]["metadata"].pop("annotations", {"checksum/configuration": ""})
            assert annotations.keys() == {"checksum/configuration"}
        key = one["kind"], one["metadata"]["name"]
        assert key not in found
        found[key] = one
    return found


def test_the_chart_and_the_kustomize_base_make_the_same_objects(helm: Helm, tools: Programs) -> None:
    expected = comparable(built(tools.kustomize, K8S / "base"))
    assert comparable(helm.rendered()) == expected


@pytest.mark.parametrize("overlay", ["receive", "monitoring"])
def test_the_chart_and_an_overlay_make_the_same_objects(helm: Helm, tools: Programs, overlay: str) -> None:
    base = comparable(built(tools.kustomize, K8S / "base"))
    expected = base | comparable(built(tools.kustomize, K8S / "overlays" / overlay))
    assert comparable(helm.rendered({overlay: {"enabled": True}})) == expected


def test_values_give_workers_the_logins_and_the_tls_of_the_overlay_managed(helm: Helm, tools: Programs) -> None:
    chart, overlay = helm.rendered(MANAGED_VALUES), built(tools.kustomize, K8S / "overlays" / "managed")
    ((_, _, ours),), ((_, _, theirs),) = pods(chart), pods(overlay)
    assert variables(ours, chart) == variables(theirs, overlay)
    assert ours["volumes"][-1] == theirs["volumes"][-1]
    assert ours["containers"][0]["volumeMounts"] == theirs["containers"][0]["volumeMounts"]


def test_a_packaged_chart_contains_the_linked_files(helm: Helm, tmp_path: Path) -> None:
    helm("package", CHART, "--destination", tmp_path)
    (package,) = tmp_path.iterdir()
    assert package.name == f"stormfold-{__version__}.tgz"
    assert helm.rendered(chart=package) == helm.rendered()


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


@pytest.mark.parametrize(
    "values", [{}, MANAGED_VALUES, {"monitoring": {"enabled": True}}, {"receive": {"enabled": True}}]
)
def test_helm_lint_finds_nothing(helm: Helm, values: dict[str, Any]) -> None:
    assert "[WARNING]" not in helm("lint", "--strict", CHART, values=values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"replicas": 3}, "additional properties 'replicas' not allowed"),
        ({"worker": {"replicas": "3"}}, "/worker/replicas"),
        ({"worker": {"resources": {"limit": {}}}}, "'limit' not allowed"),
        ({"image": {"pullPolicy": "always"}}, "/image/pullPolicy"),
        ({"environment": {"STORMFOLD KAFKA": "kafka:9092"}}, "STORMFOLD KAFKA"),
        ({"configuration": {"windows": {"gap": "2m"}}}, "/configuration"),
        ({"namespaces": ["Team A"]}, "/namespaces/0"),
        ({"monitoring": {"grafana": "grafana.example.com"}}, "/monitoring/grafana"),
    ],
)
def test_the_schema_refuses_misspelled_and_wrong_values(helm: Helm, values: dict[str, Any], expected: str) -> None:
    with pytest.raises(HelmError, match=re.escape(expected)):
        helm.rendered(values)


def keys(value: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields the dotted names of all groups and values that a schema of properties has."""
    for name, inner in value.items():
        yield f"{prefix}{name}"
        yield from keys(inner.get("properties", {}), f"{prefix}{name}.")


def test_values_schema_and_documented_values_have_the_same_keys() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    documented = re.findall(r"^\| `([\w.]+)` \|", chart_values(), re.MULTILINE)
    groups = {name.rpartition(".")[0] for name in documented} - {""}
    assert set(documented) | groups == set(keys(schema["properties"])) - {"global"}


def one(manifests: list[Manifest], kind: str, name: str = "stormfold") -> Manifest:
    """Returns one object."""
    (found,) = (each for each in of(kind, manifests) if each["metadata"]["name"] == name)
    return found


def test_image_and_scheduling_of_the_pods_come_from_values(helm: Helm) -> None:
    affinity: dict[str, Any] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    manifests = helm.rendered(
        {
            "image": {
                "repository": "registry.example.com/stormfold",
                "tag": "0.1.0-2",
                "pullPolicy": "Always",
                "pullSecrets": ["registry"],
            },
            "worker": {"replicas": 5, "resources": {"limits": {"memory": "1Gi"}}},
            "pod": {
                "annotations": {"example.com/team": "on-call"},
                "labels": {"team": "on-call", "app.kubernetes.io/name": "other"},
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"operator": "Exists"}],
                "affinity": affinity,
                "priorityClassName": "high",
            },
            "serviceAccount": {"annotations": {"example.com/role": "stormfold"}},
        }
    )
    deployment = one(manifests, "Deployment")
    assert deployment["spec"]["replicas"] == 5
    template = deployment["spec"]["template"]
    assert template["metadata"]["annotations"]["example.com/team"] == "on-call"
    # A label by which the Deployment selects its pods can't be changed.
    assert template["metadata"]["labels"].items() >= {"team": "on-call", "app.kubernetes.io/name": "stormfold"}.items()
    pod = template["spec"]
    assert (pod["nodeSelector"], pod["tolerations"], pod["affinity"], pod["priorityClassName"]) == (
        {"disk": "ssd"}, [{"operator": "Exists"}], affinity, "high",
    )  # fmt: skip
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    (container,) = pod["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("registry.example.com/stormfold:0.1.0-2", "Always")
    # Helm merges maps of values, so the other limits and requests stay.
    assert container["resources"] == {
        "requests": {"cpu": "100m", "memory": "384Mi"},
        "limits": {"cpu": "1", "memory": "1Gi"},
    }
    assert one(manifests, "ServiceAccount")["metadata"]["annotations"] == {"example.com/role": "stormfold"}


def test_variables_arrive_as_text_and_replace_the_pods(helm: Helm) -> None:
    before = helm.rendered()
    manifests = helm.rendered({"environment": {"STORMFOLD_MAX_POLL_RECORDS": 2000000, "STORMFOLD_LOG_JSON": True}})
    data = one(manifests, "ConfigMap", "stormfold-environment")["data"]
    assert data["STORMFOLD_MAX_POLL_RECORDS"] == "2000000" and data["STORMFOLD_LOG_JSON"] == "true"
    assert data.items() >= one(before, "ConfigMap", "stormfold-environment")["data"].items()
    assert checksum(manifests) != checksum(before) == checksum(helm.rendered())


def checksum(manifests: list[Manifest]) -> str:
    """Returns the checksum of variables and configuration in the pods' annotations."""
    found: str = one(manifests, "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/configuration"]
    return found


def test_a_configuration_file_is_taken_as_it_is_and_replaces_the_pods(helm: Helm, tmp_path: Path) -> None:
    file = tmp_path / "stormfold.yaml"
    file.write_text("# Ours.\nwindows: {gap: 2m}\n")
    manifests = helm.rendered(words=["--set-file", f"configuration={file}"])
    assert one(manifests, "ConfigMap")["data"] == {"stormfold.yaml": file.read_text()}
    assert checksum(manifests) != checksum(helm.rendered())


def test_parts_can_be_left_out(helm: Helm) -> None:
    values = {name: {"enabled": False} for name in ("crds", "rbac", "podDisruptionBudget", "networkPolicy")}
    kinds = {each["kind"] for each in helm.rendered(values)}
    assert kinds == {"ConfigMap", "Deployment", "Service", "ServiceAccount"}
    assert "annotations" not in of("CustomResourceDefinition", helm.rendered({"crds": {"keep": False}}))[0]["metadata"]


def test_network_rules_labels_and_links_of_the_monitoring_are_added(helm: Helm) -> None:
    rule = {"ports": [{"protocol": "TCP", "port": 26379}]}
    manifests = helm.rendered(
        {
            "worker": {"ingress": [rule]},
            "networkPolicy": {"egress": [rule]},
            "monitoring": {"enabled": True, "labels": {"release": "prometheus"}, "grafana": "https://grafana.example/"},
        }
    )
    policy = one(manifests, "NetworkPolicy")["spec"]
    assert policy["egress"][-1] == rule == policy["ingress"][-1] and len(policy["ingress"]) == 2
    for kind in ("PodMonitor", "PrometheusRule"):
        assert one(manifests, kind)["metadata"]["labels"]["release"] == "prometheus"
    links = {
        each["annotations"]["runbook_url"]
        for group in one(manifests, "PrometheusRule")["spec"]["groups"]
        for each in group["rules"]
        if "alert" in each
    }
    assert links and all(link.startswith("https://grafana.example/d/") for link in links)


def test_receivers_get_variables_files_and_rules_of_their_own(helm: Helm) -> None:
    rule = {"from": [{"podSelector": {"matchLabels": {"app": "sender"}}}]}
    receive = {
        "enabled": True,
        "replicas": None,
        "environment": {"STORMFOLD_RECEIVE_TOKEN_FILE": "/etc/stormfold-receive/tokens"},
        "secret": "tokens",
        "https": True,
        "ingress": [rule],
    }
    manifests = helm.rendered({"receive": receive, "environment": {"STORMFOLD_REDIS_URL": "redis://other:6379/0"}})
    deployment = one(manifests, "Deployment", "stormfold-receive")
    assert "replicas" not in deployment["spec"]
    pod = deployment["spec"]["template"]["spec"]
    assert {"secretName": "tokens", "optional": True} in [volume.get("secret") for volume in pod["volumes"]]
    (container,) = pod["containers"]
    probes = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert [probe["scheme"] for probe in probes] == ["HTTPS"] * 3
    found = variables(pod, manifests)
    with environment({name: value for name, value in found.items() if not name.endswith("_FILE")}) as settings:
        assert settings.redis_url == "redis://other:6379/0"
    assert found["STORMFOLD_RECEIVE_TOKEN_FILE"] == "/etc/stormfold-receive/tokens"
    assert rule in one(manifests, "NetworkPolicy", "stormfold-receive")["spec"]["ingress"]
    assert rule not in one(manifests, "NetworkPolicy")["spec"]["ingress"]
    worker = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert "scheme" not in worker["livenessProbe"]["httpGet"]


def test_workers_accept_variables_and_configuration_of_the_chart(helm: Helm) -> None:
    manifests = helm.rendered()
    ((_, _, pod),) = pods(manifests)
    with environment(variables(pod, manifests)) as settings:
        assert settings.sink == "kubernetes"
    config.loads(one(manifests, "ConfigMap")["data"]["stormfold.yaml"], "stormfold.yaml")
    assert names("ConfigMap", manifests) == {"stormfold", "stormfold-environment"}
