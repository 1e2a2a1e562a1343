"""k8s/ on a real node: one story, in the order of the tests, from `kubectl apply -k` to a failed upgrade by Helm.

The network plugin does not enforce network policies.
"""

import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.deploy.files import CHART, K8S, programs
from tests.integration.deploy.helm import RELEASE, Helm, HelmError
from tests.integration.deploy.manifests import pods
from tests.node.deployment import NAME, RECEIVE, WORKER, Deployment, Sender, until
from tests.support.node import Node

OURS = """\
resources: [stormfold/k8s, stormfold/k8s/overlays/receive]
configMapGenerator:
  - name: stormfold
    namespace: storms
    behavior: merge
    files: [stormfold.yaml]
"""
SHORT = "windows: {gap: 2s, grace: 1s, slice: 20s}\n"
VALUES = {"configuration": SHORT, "receive": {"enabled": True}, "openshift": True}
ASSIGNED = "1000660000"
"""The user in openshift.yaml."""


@pytest.fixture(scope="module")
def storms(cluster: Node) -> Iterator[Deployment]:
    """The namespace `storms`; if a test fails, its pods are described."""
    made = Deployment(cluster)
    try:
        yield made
    finally:
        print(cluster.try_kubectl("--namespace", "storms", "describe", "pods").stdout[-6000:])
        print(cluster.try_kubectl("--namespace", "storms", "get", "events").stdout[-4000:])
        print(cluster.try_kubectl("--namespace", "storms", "logs", WORKER, "--tail=30").stdout[-6000:])


@pytest.fixture
def sender(storms: Deployment) -> Iterator[Sender]:
    """Alerts that arrive all the time while the test does harm. Afterwards all of them are counted once."""
    address = storms.get("service", "stormfold-receive")["spec"]["clusterIP"]
    made = Sender(f"http://{address}:9095", storms.audit()["alerts"])
    done = threading.Thread(target=lambda: storms.node.network(made.run))
    done.start()
    until(lambda: made.accepted > 3, "the first alerts are accepted")
    try:
        yield made
    finally:
        made.stop()
        done.join(120)
    assert not done.is_alive()
    report = storms.audit()
    assert made.accepted <= report["alerts"] - made.before <= made.accepted + made.repeated, (made, report)


def test_kubectl_apply_brings_the_pods_to_ready(storms: Deployment) -> None:
    """The workers wait for the topics, which the command of the deploy page creates."""
    storms.node.kubectl("apply", "--server-side", "--kustomize", K8S)
    until(lambda: len(storms.started()) == 2, "the workers run")
    assert storms.ready() == []
    storms.stormfold("topics", "--create", "--partitions", "3")
    storms.rolled_out(WORKER)
    assert len(storms.ready()) == 2


def test_pods_are_restricted_in_the_kernel_and_the_namespace_admits_no_others(storms: Deployment) -> None:
    for pod in storms.ready():
        status = storms.status(pod)
        for pattern in (r"CapEff:\t0+$", r"CapBnd:\t0+$", r"NoNewPrivs:\t1$", r"Seccomp:\t2$", r"Uid:\t65532\t"):
            assert re.search(rf"^{pattern}", status, re.MULTILINE), pattern
        root = re.search(r"^\S+ \S+ \S+ / / (\S+)", storms.status(pod, "mountinfo"), re.MULTILINE)
        assert root and "ro" in root[1].split(",")
    image = storms.pods()[0]["spec"]["containers"][0]["image"]
    done = storms.node.try_kubectl("--namespace", "storms", "run", "other", f"--image={image}")
    assert done.returncode and 'violates PodSecurity "restricted' in done.stderr


def test_a_changed_configuration_replaces_the_workers_and_receivers_are_added(
    storms: Deployment, tmp_path: Path
) -> None:
    """The folder is one of those that the deploy page describes."""
    before = {pod["metadata"]["name"] for pod in storms.pods()}
    shutil.copytree(K8S, tmp_path / "stormfold" / "k8s", symlinks=True)
    (tmp_path / "kustomization.yaml").write_text(OURS)
    (tmp_path / "stormfold.yaml").write_text(SHORT)
    storms.node.kubectl("apply", "--server-side", "--kustomize", tmp_path)
    storms.rolled_out(WORKER, RECEIVE)
    assert not before & {pod["metadata"]["name"] for pod in storms.pods()}
    assert {each["metadata"]["name"] for each in storms.get("networkpolicies")} == {"stormfold", "stormfold-receive"}


def test_a_storm_becomes_a_resource_by_the_service_account(storms: Deployment) -> None:
    account = "--as=system:serviceaccount:storms:stormfold"
    assert storms.kubectl("auth", "can-i", "create", "alertstorms", account) == "yes\n"
    alerts = [{"labels": {"alertname": "DiskFull", "cluster": "prod", "instance": f"n{n}"}} for n in range(20)]
    storms.stormfold("publish", "-", stdin=json.dumps(alerts))
    (storm,) = until(lambda: storms.get("alertstorms"), "the storm is a resource")
    assert storm["spec"]["alertCount"] == 20 and storm["spec"]["groupLabels"]["alertname"] == "DiskFull"
    assert "DiskFull" in storms.kubectl("get", "storms")


def test_a_rolling_update_under_load_counts_every_alert_once(storms: Deployment, sender: Sender) -> None:
    before = storms.ready()
    accepted = sender.accepted
    for name in (WORKER, RECEIVE):
        storms.kubectl("rollout", "restart", name)
    storms.rolled_out(WORKER, RECEIVE)
    assert not set(before) & set(storms.ready())
    assert sender.accepted > accepted


def test_a_drain_takes_one_worker_at_a_time_and_counts_every_alert_once(storms: Deployment, sender: Sender) -> None:  # noqa: ARG001
    """The node is the only one, so the second worker stays until the node takes new pods again."""
    before = set(storms.ready())
    drained: list[str] = []
    words = "drain", "node", "--delete-emptydir-data", "--pod-selector", f"{NAME}=stormfold", "--timeout=240s"
    drain = threading.Thread(target=lambda: drained.append(storms.node.kubectl(*words)))
    drain.start()
    try:
        (left,) = until(lambda: len(found := before & set(storms.ready())) == 1 and found, "a worker is evicted")
        until(lambda: storms.get("pdb", "stormfold")["status"]["disruptionsAllowed"] == 0, "the budget is used")
        assert "disruption budget" in storms.evict(left)
        assert storms.ready() == [left]
    finally:
        storms.node.kubectl("uncordon", "node")
        drain.join(250)
    assert drained and not drain.is_alive()
    storms.rolled_out(WORKER)
    assert not before & set(storms.ready())


def test_a_worker_that_hangs_is_restarted_and_every_alert_is_counted_once(storms: Deployment, sender: Sender) -> None:
    (hung, other) = storms.ready()
    accepted = sender.accepted
    storms.node.signal(storms.process(hung), "STOP")

    def restarted() -> bool:
        (status,) = storms.get("pod", hung)["status"]["containerStatuses"]
        return bool(status["restartCount"] == 1 and status["ready"])

    until(restarted, "the worker runs again", 240)
    assert "Liveness probe failed" in storms.kubectl("get", "events", "--field-selector", f"involvedObject.name={hung}")
    (status,) = storms.get("pod", other)["status"]["containerStatuses"]
    assert status["restartCount"] == 0 and sender.accepted > accepted


@pytest.fixture(scope="module")
def helm(storms: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm with the rights of an administrator. It must be called in the network of the node."""
    return Helm(programs().helm, tmp_path_factory.mktemp("helm"), storms.node.server.kubeconfig())


def test_helm_takes_over_from_kustomize_and_workers_run_as_a_user_that_openshift_assigns(
    storms: Deployment, sender: Sender, helm: Helm
) -> None:
    storms.node.kubectl("apply", "--filename", Path(__file__).parent / "openshift.yaml")
    ((name, labels, spec),) = (found for found in pods(helm.rendered(VALUES)) if found[0] == "stormfold")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
    create = "create", "--dry-run=server", "--output", "json", "--filename", "-"
    until(lambda: ASSIGNED in storms.kubectl(*create, stdin=json.dumps(pod)), "the user is assigned")
    accepted = sender.accepted
    # Otherwise the API server keeps the fields that only Kustomize sets.
    storms.kubectl("delete", "deployment", "--selector", "app.kubernetes.io/part-of=stormfold")
    install = "upgrade", "--install", RELEASE, CHART, "--take-ownership", "--force-conflicts", "--wait"
    storms.node.network(lambda: helm(*install, values=VALUES))
    storms.rolled_out(WORKER, RECEIVE)
    for worker in storms.ready():
        status = storms.status(worker)
        assert re.search(rf"^Uid:\t{ASSIGNED}\t", status, re.MULTILINE)
        assert re.search(r"^Gid:\t0\t", status, re.MULTILINE)
    assert sender.accepted > accepted


def test_a_failed_upgrade_is_rolled_back_and_every_alert_is_counted_once(
    storms: Deployment, sender: Sender, helm: Helm
) -> None:
    ready, accepted = set(storms.ready()), sender.accepted
    upgrade = "upgrade", RELEASE, CHART, "--rollback-on-failure", "--timeout", "20s"
    with pytest.raises(HelmError, match="has been rolled back"):
        storms.node.network(lambda: helm(*upgrade, values=VALUES | {"image": {"tag": "missing"}}))
    storms.rolled_out(WORKER, RECEIVE)
    assert set(storms.ready()) == ready and sender.accepted > accepted
