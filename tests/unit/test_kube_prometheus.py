"""Alerts of the rules of kube-prometheus, with the labels that their series really carry, and the resource of each."""

import pytest

from stormfold.resource import RESOURCE_LABELS, find_resource

Labels = dict[str, str]


def state(**labels: str) -> Labels:
    """A series of kube-state-metrics: labels of its target, overridden by those of the object."""
    return {
        "container": "kube-state-metrics", "endpoint": "http", "instance": "10.42.9.105:8080",
        "job": "kube-state-metrics", "namespace": "monitoring", "pod": "kps-kube-state-metrics-5cc5cc8bf4-zpvs7",
        "prometheus": "monitoring/kps", "service": "kps-kube-state-metrics", **labels,
    }  # fmt: skip


def host(**labels: str) -> Labels:
    """A series of node-exporter."""
    return {
        "container": "node-exporter", "endpoint": "http-metrics", "instance": "10.0.0.1:9100", "job": "node-exporter",
        "namespace": "monitoring", "pod": "kps-prometheus-node-exporter-8x2kq", "prometheus": "monitoring/kps",
        "service": "kps-prometheus-node-exporter", **labels,
    }  # fmt: skip


def kubelet(**labels: str) -> Labels:
    """A series of a kubelet, without its cAdvisor."""
    return {
        "endpoint": "https-metrics", "instance": "10.0.0.1:10250", "job": "kubelet", "metrics_path": "/metrics",
        "namespace": "kube-system", "node": "n1", "prometheus": "monitoring/kps", "service": "kps-kubelet", **labels,
    }  # fmt: skip


def component(pod: str, **labels: str) -> Labels:
    """A series of a component of the stack about itself."""
    job = pod.removesuffix("-0").replace("prometheus-kps", "kps").replace("alertmanager-kps", "kps")
    return {
        "container": "main", "endpoint": "http-web", "instance": "10.42.0.7:9090", "job": job,
        "namespace": "monitoring", "pod": pod, "prometheus": "monitoring/kps", "service": job, **labels,
    }  # fmt: skip


PROMETHEUS = "prometheus-kps-prometheus-0"
ALERTMANAGER = "alertmanager-kps-alertmanager-0"
NODE = "Instance/10.0.0.1:9100"
DISK = {"device": "/dev/sda1", "fstype": "ext4", "mountpoint": "/"}

RULES: list[tuple[str, Labels, str]] = [
    ("KubePodCrashLooping", state(namespace="shop", pod="web-1", container="web", reason="CrashLoopBackOff"),
     "Pod/shop/web-1"),
    ("KubePodNotReady", {"namespace": "shop", "pod": "web-1"}, "Pod/shop/web-1"),
    ("KubeContainerWaiting", state(namespace="logs", pod="filebeat-x", container="filebeat"), "Pod/logs/filebeat-x"),
    ("KubeDeploymentGenerationMismatch", state(namespace="shop", deployment="web"), "Deployment/shop/web"),
    ("KubeDeploymentReplicasMismatch", state(namespace="shop", deployment="web"), "Deployment/shop/web"),
    ("KubeDeploymentRolloutStuck", state(namespace="shop", deployment="web", condition="Progressing", status="false"),
     "Deployment/shop/web"),
    ("KubeStatefulSetReplicasMismatch", state(namespace="shop", statefulset="db"), "StatefulSet/shop/db"),
    ("KubeStatefulSetGenerationMismatch", state(namespace="shop", statefulset="db"), "StatefulSet/shop/db"),
    ("KubeStatefulSetUpdateNotRolledOut", {"namespace": "shop", "statefulset": "db", "job": "kube-state-metrics"},
     "StatefulSet/shop/db"),
    ("KubeDaemonSetRolloutStuck", state(namespace="kube-system", daemonset="cni"), "DaemonSet/kube-system/cni"),
    ("KubeDaemonSetNotScheduled", state(namespace="kube-system", daemonset="cni"), "DaemonSet/kube-system/cni"),
    ("KubeDaemonSetMisScheduled", state(namespace="kube-system", daemonset="cni"), "DaemonSet/kube-system/cni"),
    ("KubeJobNotCompleted", {"namespace": "batch", "job_name": "nightly-1"}, "Job/batch/nightly-1"),
    ("KubeJobFailed", state(namespace="batch", job_name="nightly-1", condition="true"), "Job/batch/nightly-1"),
    ("KubeHpaReplicasMismatch", state(namespace="shop", horizontalpodautoscaler="web"),
     "HorizontalPodAutoscaler/shop/web"),
    ("KubeHpaMaxedOut", state(namespace="shop", horizontalpodautoscaler="web"), "HorizontalPodAutoscaler/shop/web"),
    ("KubePdbNotEnoughHealthyPods", state(namespace="shop", poddisruptionbudget="web"),
     "PodDisruptionBudget/shop/web"),
    ("KubeCPUOvercommit", {}, ""),
    ("KubeMemoryOvercommit", {}, ""),
    ("KubeCPUQuotaOvercommit", {}, ""),
    ("KubeMemoryQuotaOvercommit", {}, ""),
    ("KubeQuotaAlmostFull", state(namespace="shop", resourcequota="q", resource="limits.cpu"), "Namespace/shop"),
    ("KubeQuotaFullyUsed", state(namespace="shop", resourcequota="q", resource="limits.cpu"), "Namespace/shop"),
    ("KubeQuotaExceeded", state(namespace="shop", resourcequota="q", resource="limits.cpu"), "Namespace/shop"),
    ("CPUThrottlingHigh", {"namespace": "shop", "pod": "web-1", "container": "web"}, "Pod/shop/web-1"),
    ("KubePersistentVolumeFillingUp", kubelet(namespace="shop", persistentvolumeclaim="data-0"),
     "PersistentVolumeClaim/shop/data-0"),
    ("KubePersistentVolumeInodesFillingUp", kubelet(namespace="shop", persistentvolumeclaim="data-0"),
     "PersistentVolumeClaim/shop/data-0"),
    ("KubePersistentVolumeErrors", state(persistentvolume="pv-1", phase="Failed"), "PersistentVolume/pv-1"),
    ("KubeVersionMismatch", {}, ""),
    ("KubeClientErrors", {"instance": "10.0.0.9:6443", "job": "apiserver", "namespace": "default"},
     "Instance/10.0.0.9:6443"),
    ("KubeAPIErrorBudgetBurn", {"long": "1h", "short": "5m"}, ""),
    ("KubeClientCertificateExpiration", {"job": "apiserver"}, ""),
    ("KubeAggregatedAPIErrors", {"instance": "10.0.0.9:6443", "name": "v1.metrics.k8s.io", "reason": "x"},
     "Instance/10.0.0.9:6443"),
    ("KubeAggregatedAPIDown", {"name": "v1.metrics.k8s.io", "namespace": "default"}, "Namespace/default"),
    ("KubeAPIDown", {"job": "apiserver"}, ""),
    ("KubeAPITerminatedRequests", {}, ""),
    ("KubeNodeNotReady", state(node="n1", condition="Ready", status="true"), "Node/n1"),
    ("KubeNodePressure", state(node="n1", condition="DiskPressure", status="true"), "Node/n1"),
    ("KubeNodeUnreachable", state(node="n1", effect="NoSchedule", key="node.kubernetes.io/unreachable"), "Node/n1"),
    ("KubeletTooManyPods", {"node": "n1"}, "Node/n1"),
    ("KubeNodeReadinessFlapping", {"node": "n1"}, "Node/n1"),
    ("KubeNodeEviction", {"node": "n1", "instance": "10.0.0.1:10250", "eviction_signal": "memory.available"},
     "Node/n1"),
    ("KubeletPlegDurationHigh", {"node": "n1", "instance": "10.0.0.1:10250", "quantile": "0.99"}, "Node/n1"),
    ("KubeletPodStartUpLatencyHigh", {"node": "n1", "instance": "10.0.0.1:10250"}, "Node/n1"),
    ("KubeletClientCertificateExpiration", kubelet(), "Node/n1"),
    ("KubeletServerCertificateExpiration", kubelet(), "Node/n1"),
    ("KubeletClientCertificateRenewalErrors", kubelet(), "Node/n1"),
    ("KubeletServerCertificateRenewalErrors", kubelet(), "Node/n1"),
    ("KubeletDown", {"job": "kubelet"}, ""),
    ("KubeSchedulerDown", {"job": "kube-scheduler"}, ""),
    ("KubeControllerManagerDown", {"job": "kube-controller-manager"}, ""),
    ("KubeProxyDown", {"job": "kube-proxy"}, ""),
    ("NodeFilesystemSpaceFillingUp", host(**DISK), NODE),
    ("NodeFilesystemAlmostOutOfSpace", host(**DISK), NODE),
    ("NodeFilesystemFilesFillingUp", host(**DISK), NODE),
    ("NodeFilesystemAlmostOutOfFiles", host(**DISK, node="n1"), "Node/n1"),
    ("NodeNetworkReceiveErrs", host(device="eth0"), NODE),
    ("NodeNetworkTransmitErrs", host(device="eth0"), NODE),
    ("NodeHighNumberConntrackEntriesUsed", host(), NODE),
    ("NodeTextFileCollectorScrapeError", host(), NODE),
    ("NodeClockSkewDetected", host(), NODE),
    ("NodeClockNotSynchronising", host(), NODE),
    ("NodeRAIDDegraded", host(device="md0", state="failed"), NODE),
    ("NodeRAIDDiskFailure", host(device="md0", state="failed"), NODE),
    ("NodeFileDescriptorLimit", host(), NODE),
    ("NodeCPUHighUsage", {"instance": "10.0.0.1:9100"}, NODE),
    ("NodeSystemSaturation", host(), NODE),
    ("NodeMemoryMajorPagesFaults", host(), NODE),
    ("NodeMemoryHighUtilization", host(), NODE),
    ("NodeDiskIOSaturation", host(device="sda"), NODE),
    ("NodeSystemdServiceFailed", host(name="docker.service", state="failed"), NODE),
    ("NodeBondingDegraded", host(master="bond0"), NODE),
    ("NodeNetworkInterfaceFlapping", host(device="eth0"), NODE),
    ("TargetDown", {"job": "api", "namespace": "shop", "service": "api"}, "Service/shop/api"),
    ("TargetDown", {"job": "node-exporter", "namespace": "monitoring", "service": "kps-prometheus-node-exporter"},
     "Service/monitoring/kps-prometheus-node-exporter"),
    ("Watchdog", {}, ""),
    ("InfoInhibitor", {"namespace": "shop"}, "Namespace/shop"),
    ("ConfigReloaderSidecarErrors", component(PROMETHEUS, container="config-reloader"),
     f"Pod/monitoring/{PROMETHEUS}"),
    ("PrometheusBadConfig", component(PROMETHEUS), f"Pod/monitoring/{PROMETHEUS}"),
    ("PrometheusNotIngestingSamples", component(PROMETHEUS), f"Pod/monitoring/{PROMETHEUS}"),
    ("PrometheusRuleFailures", component(PROMETHEUS, rule_group="g"), f"Pod/monitoring/{PROMETHEUS}"),
    ("PrometheusErrorSendingAlertsToSomeAlertmanagers", component(PROMETHEUS, alertmanager="http://10.42.0.9:9093"),
     f"Pod/monitoring/{PROMETHEUS}"),
    ("AlertmanagerFailedReload", component(ALERTMANAGER), f"Pod/monitoring/{ALERTMANAGER}"),
    ("AlertmanagerMembersInconsistent", component(ALERTMANAGER), f"Pod/monitoring/{ALERTMANAGER}"),
    ("AlertmanagerFailedToSendAlerts", component(ALERTMANAGER, integration="webhook"),
     f"Pod/monitoring/{ALERTMANAGER}"),
    ("AlertmanagerClusterDown", {"namespace": "monitoring", "service": "kps-alertmanager"},
     "Service/monitoring/kps-alertmanager"),
    ("PrometheusOperatorReconcileErrors", {"controller": "prometheus", "namespace": "monitoring"},
     "Namespace/monitoring"),
    ("KubeStateMetricsListErrors", {}, ""),
    ("KubeStateMetricsShardingMismatch", {}, ""),
    ("etcdNoLeader", {"endpoint": "http-metrics", "instance": "10.0.0.9:2381", "job": "kube-etcd",
                      "namespace": "kube-system", "pod": "etcd-cp1", "service": "kps-kube-etcd"},
     "Pod/kube-system/etcd-cp1"),
    ("etcdMembersDown", {"job": "kube-etcd"}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "labels", "resource"), RULES, ids=[name for name, _, _ in RULES])
def test_the_alert_of_a_rule_is_about_its_object(name: str, labels: Labels, resource: str) -> None:
    found = find_resource({"alertname": name, "severity": "warning", **labels}, RESOURCE_LABELS)
    assert str(found or "") == resource


def test_six_nodes_that_are_not_ready_are_six_resources() -> None:
    nodes = {find_resource(state(node=f"n{number}"), RESOURCE_LABELS) for number in range(6)}
    assert len(nodes) == 6
