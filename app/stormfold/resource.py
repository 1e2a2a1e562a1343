"""The Kubernetes resource that an alert is about, by its labels."""

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
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

TARGET_KINDS = frozenset({"Instance"})
"""Kinds that stormfold adds: a scrape target is a host and port. Clusters may use the same name for an own kind."""

CLUSTER_SCOPED = TARGET_KINDS | frozenset(
    [
        "AKSNodeClass",
        "APIService",
        "CSIDriver",
        "CSINode",
        "CertificateSigningRequest",
        "ClusterCleanupPolicy",
        "ClusterExternalSecret",
        "ClusterIssuer",
        "ClusterOperator",
        "ClusterPolicy",
        "ClusterRole",
        "ClusterRoleBinding",
        "ClusterSecretStore",
        "ClusterVersion",
        "CustomResourceDefinition",
        "EC2NodeClass",
        "FlowSchema",
        "GatewayClass",
        "IngressClass",
        "MachineConfig",
        "MachineConfigPool",
        "MutatingWebhookConfiguration",
        "Namespace",
        "Node",
        "NodeClaim",
        "NodeClass",
        "NodePool",
        "PersistentVolume",
        "PriorityClass",
        "PriorityLevelConfiguration",
        "RuntimeClass",
        "StorageClass",
        "ValidatingAdmissionPolicy",
        "ValidatingWebhookConfiguration",
        "VolumeAttachment",
        "VolumeSnapshotClass",
        "VolumeSnapshotContent",
    ]
)
"""Kinds without a namespace. Clusters may have more; Events about them have no namespace either."""

EXPORTERS = ("*state-metrics*", "*exporter*", "*pushgateway*", "telegraf*")
"""Scrape jobs, as globs, whose targets report about other things than themselves."""
_OTHER_OBJECTS = "*state-metrics*"
"""Jobs that report about objects anywhere in the cluster, not about the host they run on."""
_TARGET_LABELS = {"pod", "service", "instance"}
"""Labels that Prometheus attaches to a series to name the scraped target; their namespace is `namespace`."""


class Resource(NamedTuple):
    """A Kubernetes object, or a scrape target."""

    kind: str
    namespace: str
    """Empty for cluster-scoped kinds, and if the alert does not name one."""
    name: str

    def __str__(self) -> str:
        """`Kind/namespace/name`, or `Kind/name`."""
        return "/".join(part for part in self if part)


def find_resource(
    labels: Mapping[str, str], resource_labels: Iterable[tuple[str, str]], exporters: Iterable[str] = EXPORTERS
) -> Resource | None:
    """The resource named by the first of `resource_labels` (label, kind) that the alert has.

    `exported_X` comes before `X`: Prometheus renames a label of the series if the scraped target has the same one.
    Labels that only name the exporter that reported a series, by the `exporters` (globs of jobs), do not count.
    """
    exporter_labels = _exporter_labels(labels, exporters)
    exported_namespace = labels.get("exported_namespace", "")
    for label, kind in resource_labels:
        namespace = exported_namespace or labels.get("namespace", "")
        name = labels.get(f"exported_{label}")
        if not name and label not in exporter_labels:
            name = labels.get(label)
            if label in _TARGET_LABELS:
                namespace = labels.get("namespace", "")
        if name:
            return Resource(kind, "" if kind in CLUSTER_SCOPED else namespace, name)
    return None


def _exporter_labels(labels: Mapping[str, str], exporters: Iterable[str]) -> Collection[str]:
    """The labels that name an exporter: those of the scraped target, if its pod is the exporter's own."""
    job = labels.get("job", "").rpartition("/")[2]
    if not job or job not in labels.get("pod", "") or not any(fnmatchcase(job, glob) for glob in exporters):
        return ()
    about_host = not fnmatchcase(job, _OTHER_OBJECTS)
    return ("pod", "container", "service") if about_host else ("pod", "container", "service", "instance")
