"""Helm installs, upgrades, rolls back and uninstalls the chart on a real API server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.deploy.files import CHART, ROOT, Programs
from tests.integration.deploy.helm import NAMESPACE, RELEASE, Helm, HelmError
from tests.integration.deploy.manifests import dry_run, pods
from tests.integration.deploy.test_docs import DEPLOY, blocks, typed
from tests.support.apiserver import STORMS, ApiServer
from tests.support.servers import until
from tests.support.storms import manifest

DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/stormfold"
CONFIGURATION = f"/api/v1/namespaces/{NAMESPACE}/configmaps/stormfold"
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/alertstorms.stormfold.dev"
POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
ASSIGNED_IDS = "1000660000", "1000669999"
"""The range of user ids that OpenShift assigns to a namespace."""
OPENSHIFT = f"""
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: restricted-v2}}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}}]
  variables:
    - name: contexts
      expression: >-
        [object.spec.securityContext] +
        object.spec.containers.filter(c, has(c.securityContext)).map(c, c.securityContext)
  validations:
    - expression: >-
        variables.contexts.all(c,
          !has(c.runAsUser) || (c.runAsUser >= {ASSIGNED_IDS[0]} && c.runAsUser <= {ASSIGNED_IDS[1]}))
      message: must be in the ranges
    - expression: >-
        !has(object.spec.securityContext.fsGroup) || object.spec.securityContext.fsGroup >= {ASSIGNED_IDS[0]}
      message: fsGroup must be in the ranges
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: restricted-v2}}
spec:
  policyName: restricted-v2
  validationActions: [Deny]
  matchResources: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: storms}}}}}}
"""
"""The part about ids of the policy that OpenShift applies to pods by default."""


@pytest.fixture(scope="module")
def server(tools: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:  # noqa: ARG001
    """An API server that knows nothing of stormfold yet."""
    with ApiServer(tmp_path_factory.mktemp("cluster")) as server:
        yield server


@pytest.fixture(scope="module")
def helm(server: ApiServer, tools: Programs, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm with the rights of an administrator."""
    return Helm(tools.helm, tmp_path_factory.mktemp("helm"), server.kubeconfig())


@pytest.fixture
def release(helm: Helm) -> Iterator[str]:
    """An installed release; its definitions stay after the test, as they do for users."""
    helm("install", RELEASE, CHART, "--create-namespace")
    yield RELEASE
    helm("uninstall", RELEASE, "--ignore-not-found")


def gap(server: ApiServer) -> str:
    """Returns the gap in the configuration of the installed release."""
    found = yaml.safe_load(server.request("GET", CONFIGURATION).body["data"]["stormfold.yaml"])
    return str(found["windows"]["gap"])


def replicas(server: ApiServer) -> int:
    """Returns the number of workers of the installed release."""
    found: int = server.request("GET", DEPLOYMENT).body["spec"]["replicas"]
    return found


def test_an_upgrade_changes_the_release_and_a_rollback_restores_it(
    helm: Helm, server: ApiServer, release: str, tmp_path: Path
) -> None:
    assert (gap(server), replicas(server)) == ("1m", 2)
    file = tmp_path / "stormfold.yaml"
    file.write_text("windows: {gap: 2m}\n")
    helm("upgrade", release, CHART, "--set-file", f"configuration={file}", values={"worker": {"replicas": 3}})
    assert (gap(server), replicas(server)) == ("2m", 3)
    helm("rollback", release, "1")
    assert (gap(server), replicas(server)) == ("1m", 2)
    assert [line.split()[0] for line in helm("history", release).splitlines()[1:]] == ["1", "2", "3"]


def test_a_refused_upgrade_changes_nothing(helm: Helm, server: ApiServer, release: str) -> None:
    before = server.request("GET", DEPLOYMENT).body["metadata"]["generation"]
    with pytest.raises(HelmError, match="replica"):
        helm("upgrade", release, CHART, values={"worker": {"replica": 3}})
    with pytest.raises(HelmError, match="requests: Invalid value"):
        helm("upgrade", release, CHART, values={"worker": {"resources": {"requests": {"memory": "2Gi"}}}})
    assert server.request("GET", DEPLOYMENT).body["metadata"]["generation"] == before
    helm("upgrade", release, CHART)
    assert replicas(server) == 2


def test_an_upgrade_brings_new_definitions(helm: Helm, server: ApiServer, release: str) -> None:
    older = {"spec": {"names": {"shortNames": ["storm"]}}}
    server.request("PATCH", DEFINITION, older, content_type="application/merge-patch+json")
    helm("upgrade", release, CHART, "--force-conflicts")
    assert server.request("GET", DEFINITION).body["spec"]["names"]["shortNames"] == ["storm", "storms"]


async def test_uninstalling_keeps_definitions_and_storms_and_a_new_release_takes_them(
    helm: Helm, server: ApiServer, release: str
) -> None:
    await until(lambda: server.request("GET", STORMS).status == 200, what="storms are served")
    server.apply(manifest())
    helm("uninstall", release)
    assert server.request("GET", DEPLOYMENT).status == 404
    assert len(server.storms()) == 1
    helm("install", release, CHART)
    assert len(server.storms()) == 1 and replicas(server) == 2


def test_the_definitions_belong_to_one_release_of_a_cluster(helm: Helm, release: str) -> None:  # noqa: ARG001
    words = "install", "second", CHART, "--create-namespace"
    with pytest.raises(HelmError, match=r'alertstorms\.stormfold\.dev.*meta\.helm\.sh/release-name.*"stormfold"'):
        helm(*words, namespace="other")
    helm(*words, namespace="other", values={"crds": {"enabled": False}})
    helm("uninstall", "second", namespace="other")


def test_the_commands_of_the_deploy_page_install_the_chart_and_take_a_change_back(
    helm: Helm, server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (values,) = (block for block in blocks(DEPLOY, "yaml") if block.startswith("# values.yaml\n"))
    Path("values.yaml").write_text(values)
    (tmp_path / "stormfold").symlink_to(ROOT)
    (upgrade,) = (words[1:] for words in typed(DEPLOY) if words[:2] == ["helm", "upgrade"])
    (rollback,) = (words[1:] for words in typed(DEPLOY) if words[:2] == ["helm", "rollback"])
    for expected in ("2m", "3m"):
        Path("stormfold.yaml").write_text(f"windows: {{gap: {expected}}}\n")
        helm(*upgrade)
        assert gap(server) == expected
    helm(*rollback)
    assert gap(server) == "2m"
    variables = server.request("GET", f"{CONFIGURATION}-environment").body["data"]
    assert variables.items() >= yaml.safe_load(values)["environment"].items()
    helm("uninstall", RELEASE)


async def test_openshifts_policy_admits_pods_without_fixed_ids(helm: Helm, server: ApiServer, release: str) -> None:  # noqa: ARG001
    server.request(
        "PATCH",
        f"/api/v1/namespaces/{NAMESPACE}",
        {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
        content_type="application/merge-patch+json",
    )
    for policy, path in zip(yaml.safe_load_all(OPENSHIFT), (POLICIES, f"{POLICIES[:-3]}ybindings"), strict=True):
        assert server.request("POST", path, policy).status == 201

    def admitted(values: dict[str, Any]) -> Any:
        ((name, labels, spec),) = pods(helm.rendered(values))
        metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
        return dry_run(server, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    await until(lambda: admitted({}).status == 422, what="pods with fixed ids are refused")
    assert "must be in the ranges" in admitted({}).body["message"]
    answer = admitted({"openshift": True})
    assert answer.status == 201, answer
