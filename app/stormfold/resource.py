"""The Kubernetes resource that an alert is about, by its labels."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

RESOURCE_LABELS: tuple[tuple[str, str], ...] = (
    ("pod", "Pod"),
    ("deployment", "Deployment"),
    ("statefulset", "StatefulSet"),
    ("daemonset", "DaemonSet"),
    ("replicaset", "ReplicaSet"),
    # Not `job`: in Prometheus that is the scrape job, which nearly every alert has. kube-state-metrics calls a Job
    # `job_name` for the same reason.
    ("job_name", "Job"),
    ("cronjob", "CronJob"),
    ("horizontalpodautoscaler", "HorizontalPodAutoscaler"),
    ("poddisruptionbudget", "PodDisruptionBudget"),
    ("persistentvolumeclaim", "PersistentVolumeClaim"),
    ("persistentvolume", "PersistentVolume"),
    ("ingress", "Ingress"),
    ("node", "Node"),
    # Scraping often adds the next two, and they name what measured, so everything above comes first.
    ("service", "Service"),
    ("instance", "Instance"),
    ("namespace", "Namespace"),
)
"""Label names and the kind of resource that each names, as in kube-state-metrics. The first label that is present
counts, so the narrower comes before the wider: a pod before its workload, both before their node."""

CLUSTER_SCOPED = frozenset(
    {
        "APIService",
        "CertificateSigningRequest",
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Instance",
        "Namespace",
        "Node",
        "PersistentVolume",
        "StorageClass",
        "VolumeAttachment",
    }
)
"""Kinds without a namespace. `Instance` is not a Kubernetes kind, but a scrape target: a host and port."""


class Resource(NamedTuple):
    """A Kubernetes object, or a scrape target."""

    kind: str
    namespace: str
    """Empty for cluster-scoped kinds, and if the alert does not name one."""
    name: str

    def __str__(self) -> str:
        """`Kind/namespace/name`, or `Kind/name`."""
        return "/".join(part for part in self if part)


def resource_of(labels: Mapping[str, str], resource_labels: Iterable[tuple[str, str]]) -> Resource | None:
    """The resource named by the first of `resource_labels` (label, kind) that the alert has."""
    for label, kind in resource_labels:
        if name := labels.get(label):
            return Resource(kind, "" if kind in CLUSTER_SCOPED else labels.get("namespace", ""), name)
    return None
