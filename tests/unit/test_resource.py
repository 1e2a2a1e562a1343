"""The resource that labels name; kube-prometheus' own alerts are in test_kube_prometheus.py."""

import pytest

from stormfold.resource import CLUSTER_SCOPED, RESOURCE_LABELS, Resource, find_resource


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"namespace": "shop", "deployment": "api", "pod": "api-1", "node": "n1"}, "Pod/shop/api-1"),
        ({"namespace": "shop", "deployment": "api", "node": "n1"}, "Deployment/shop/api"),
        ({"namespace": "shop", "node": "n1", "service": "kubelet"}, "Node/n1"),
        ({"namespace": "batch", "job_name": "nightly", "job": "kube-state-metrics"}, "Job/batch/nightly"),
        ({"pod": "api-1"}, "Pod/api-1"),
        ({"instance": "10.0.0.1:9100", "job": "node", "namespace": "monitoring"}, "Instance/10.0.0.1:9100"),
        ({"namespace": "shop", "job": "anything"}, "Namespace/shop"),
        ({"persistentvolume": "pv-1", "namespace": "shop"}, "PersistentVolume/pv-1"),
        ({"pod": "", "node": "n1"}, "Node/n1"),
        ({"alertname": "Watchdog", "job": "prometheus"}, "None"),
    ],
)
def test_the_resource_is_the_narrowest_one_that_the_labels_name(labels: dict[str, str], expected: str) -> None:
    """The scrape job is not a resource."""
    assert str(find_resource(labels, RESOURCE_LABELS)) == expected


def test_resource_labels_kinds_and_order_are_configurable() -> None:
    labels = {"host": "db1", "pod": "api-1", "namespace": "shop"}
    assert find_resource(labels, (("host", "Host"), ("pod", "Pod"))) == Resource("Host", "shop", "db1")


def test_every_resource_label_and_kind_is_unique() -> None:
    """So an Event can get the label of the kind of its object."""
    labels, kinds = zip(*RESOURCE_LABELS, strict=True)
    assert len(set(labels)) == len(set(kinds)) == len(RESOURCE_LABELS)
    assert set(kinds) & CLUSTER_SCOPED == {"PersistentVolume", "Node", "Instance", "Namespace"}
