"""A simulated incident: a node dies, the pods of thirty namespaces fail, and unrelated alerts continue.

Pure: the same seed and start give the same records. They have the formats of a real cluster: webhooks of Alertmanager,
repeated until their alerts are resolved, Kubernetes Events, plain alerts, CloudEvents, and one invalid record.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

import msgspec

from stormfold.fingerprint import fingerprint
from stormfold.times import format_timestamp

CLUSTER = "eu1"
NODE = "worker-7"
NAMESPACES = (
    "accounts", "ads", "analytics", "auth", "billing", "cart", "catalog", "checkout", "email", "frontend", "fraud",
    "gateway", "inventory", "invoices", "loyalty", "media", "mobile", "notifications", "orders", "payments", "pricing",
    "recommendations", "reports", "reviews", "search", "sessions", "shipping", "support", "webhooks", "wishlist",
)  # fmt: skip
RESEND = 0.75
"""Seconds until Alertmanager repeats a group. In reality these are minutes, and the incident takes an hour."""
CHAPTERS = (
    (0.0, "Normal operation: a few unrelated alerts"),
    (0.8, f"{NODE} stops responding"),
    (1.4, "Its pods in thirty namespaces are gone; their controllers report it"),
    (2.6, "New pods crash because their dependencies ran on the same node"),
    (3.6, "Services fail, and so do external probes"),
    (5.6, f"{NODE} is replaced"),
    (7.0, "Pods become ready, service by service; alerts are resolved"),
    (9.4, "Quiet"),
)
"""Seconds after the start, and what happens then."""

_RUNBOOKS = "https://runbooks.example.com"
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"

Labels = dict[str, str]


class IncidentRecord(NamedTuple):
    """One record for the `alerts` topic."""

    at: float
    """Seconds after the start."""
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    alerts: int = 1
    """Alerts in the record; 0 if it cannot be parsed."""


class _Symptom(NamedTuple):
    """One alert rule and the resources it fires for: from second `begin` on, resolved by second `end` at the latest."""

    name: str
    severity: str
    kind: str
    share: float
    """Share of the resources of that kind for which it fires."""
    begin: float
    end: float
    summary: str


_SYMPTOMS = (
    _Symptom("TargetDown", "warning", "target", 1.0, 1.0, 4.6, "A scrape target is unreachable"),
    _Symptom("KubePodNotReady", "warning", "pod", 1.0, 1.5, 6.2, "Pod has been in a non-ready state"),
    _Symptom("KubeContainerWaiting", "warning", "pod", 0.6, 2.2, 5.6, "Container waits to start"),
    _Symptom("KubeDaemonSetRolloutStuck", "warning", "daemonset", 1.0, 2.0, 5.2, "DaemonSet rollout is stuck"),
    _Symptom("KubeDeploymentReplicasMismatch", "warning", "deployment", 0.9, 2.0, 8.6, "Replicas are missing"),
    _Symptom("KubeStatefulSetReplicasMismatch", "warning", "statefulset", 1.0, 2.2, 8.0, "Replicas are missing"),
    _Symptom("KubePodCrashLooping", "critical", "pod", 0.8, 2.6, 9.2, "Pod is crash looping"),
    _Symptom("KubePersistentVolumeStuck", "warning", "claim", 1.0, 3.0, 7.0, "Volume is still attached elsewhere"),
    _Symptom("ServiceErrorRateHigh", "critical", "service", 0.9, 3.4, 9.0, "More than 5 % of requests fail"),
    _Symptom("ServiceLatencyHigh", "warning", "service", 0.7, 3.6, 9.3, "99th percentile is above 2 s"),
    _Symptom("KubeHpaMaxedOut", "warning", "horizontalpodautoscaler", 1.0, 4.2, 8.8, "Autoscaler is at its maximum"),
)
"""The alerts that Alertmanager sends, grouped by namespace."""

_EVENTS = (
    ("BackOff", 2.8, 8.4, "Back-off restarting failed container"),
    ("FailedScheduling", 1.6, 5.4, "0/12 nodes are available: 11 Insufficient cpu, 1 node(s) were unreachable"),
    ("Unhealthy", 3.2, 8.0, "Readiness probe failed: dial tcp: i/o timeout"),
)
"""The Events of half of the pods: reason, first second, last second, message."""

_NODE_ALERTS = (
    ("KubeNodeNotReady", "critical", "Node is not ready"),
    ("KubeNodeUnreachable", "critical", "Node is unreachable, its workloads will be rescheduled"),
    ("KubeletDown", "critical", "Kubelet has disappeared from discovery"),
    ("KubeNodeReadinessFlapping", "warning", "Readiness changed five times"),
)

_NOISE = (
    ("CertificateExpiresSoon", "warning", "instance", ("www.example.com:443", "api.example.com:443"), CLUSTER),
    ("BackupTooOld", "warning", "persistentvolumeclaim", ("ledger-db-0",), CLUSTER),
    ("CPUThrottlingHigh", "info", "pod", ("thumbnailer-0", "thumbnailer-1", "thumbnailer-2"), "us1"),
    ("KubeJobFailed", "warning", "job_name", ("nightly-export-29384", "nightly-export-29385"), "us1"),
    ("KubeQuotaAlmostFull", "info", "namespace", ("sandbox", "load-tests"), "us1"),
    ("DiskFullInFourDays", "warning", "instance", ("10.1.4.12:9100",), "us1"),
    ("EtcdCommitSlow", "warning", "instance", ("10.1.0.3:2379",), "us1"),
    ("PrometheusRuleFailures", "warning", "pod", ("prometheus-k8s-1",), "us1"),
    ("SlowQueries", "info", "service", ("warehouse", "reporting"), "ap1"),
    ("LicenseExpires", "info", "service", ("vault",), "ap1"),
    ("ReplicationLag", "warning", "statefulset", ("warehouse-db",), "ap1"),
    ("TimeDrift", "warning", "instance", ("10.2.0.9:9100",), "ap1"),
)
"""Unrelated alerts: name, severity, label of the resource, resources, cluster."""

GARBAGE = b"upstream connect error or disconnect/reset before headers. reset reason: connection termination\n"


def incident(seed: int, start: int) -> list[IncidentRecord]:
    """Returns the records in order of time. `start` (Unix time, ms) is the base of the times in alerts."""
    rng = Random(seed)
    resources = _world(rng)
    records = [
        *_dead_node(start),
        *(record for symptom in _SYMPTOMS for record in _alertmanager(rng, symptom, resources[symptom.kind], start)),
        *_probes(rng, start),
        *_events(rng, resources["pod"], start),
        *_noise(rng, start),
        *_staging(rng, start),
        IncidentRecord(4.4, GARBAGE, (("content-type", b"text/plain"),), alerts=0),
    ]
    return sorted(records, key=lambda record: record.at)


def _world(rng: Random) -> Mapping[str, list[Labels]]:
    """Labels of the resources on the node and of those that depend on it, by kind."""
    resources: defaultdict[str, list[Labels]] = defaultdict(list)
    for number, namespace in enumerate(NAMESPACES):
        for workload in rng.sample(("api", "web", "worker", "consumer"), rng.randint(2, 3)):
            name = f"{namespace}-{workload}"
            resources["deployment"].append({"namespace": namespace, "deployment": name})
            resources["service"].append({"namespace": namespace, "service": name})
            if workload in ("api", "web") and rng.random() < 0.6:
                resources["horizontalpodautoscaler"].append({"namespace": namespace, "horizontalpodautoscaler": name})
            version = _letters(rng, 9)
            resources["pod"] += [
                {"namespace": namespace, "pod": f"{name}-{version}-{_letters(rng, 5)}", "container": workload}
                for _ in range(rng.randint(1, 2))
            ]
        if number % 3 == 0:
            resources["statefulset"].append({"namespace": namespace, "statefulset": f"{namespace}-db"})
            resources["pod"].append({"namespace": namespace, "pod": f"{namespace}-db-0", "container": "postgres"})
            resources["claim"].append({"namespace": namespace, "persistentvolumeclaim": f"data-{namespace}-db-0"})
        resources["target"].append({"namespace": namespace, "job": namespace, "instance": f"10.0.7.{10 + number}:8080"})
    for name in ("node-exporter", "kube-proxy", "cilium", "fluent-bit", "csi-node", "node-local-dns"):
        resources["daemonset"].append({"namespace": "kube-system", "daemonset": name})
    return resources


def _alertmanager(rng: Random, symptom: _Symptom, resources: Sequence[Labels], start: int) -> Iterator[IncidentRecord]:
    """Webhooks with the alerts of one namespace, sent at the first alert and every `RESEND` until all are resolved."""
    lives: defaultdict[str, list[tuple[float, float, Labels]]] = defaultdict(list)
    for resource in rng.sample(resources, round(symptom.share * len(resources))):
        # Most fail at once and recover slowly.
        failed = symptom.begin + 1.2 * rng.random() ** 2
        recovered = symptom.end - (symptom.end - symptom.begin) * 0.25 * rng.random()
        labels = {"alertname": symptom.name, "cluster": CLUSTER, "severity": symptom.severity, **resource}
        lives[resource["namespace"]].append((failed, recovered, labels))
    for namespace, group in lives.items():
        sent, at = 0.0, min(failed for failed, _, _ in group) + rng.uniform(0.05, 0.2)
        while sent < max(recovered for _, recovered, _ in group):
            alerts = [
                _alert(labels, symptom.summary, start, failed, recovered if recovered <= at else None)
                for failed, recovered, labels in group
                if failed <= at and recovered > sent
            ]
            yield IncidentRecord(at, _webhook(symptom.name, namespace, alerts), alerts=len(alerts))
            sent, at = at, at + RESEND * rng.uniform(0.9, 1.1)


def _dead_node(start: int) -> Iterator[IncidentRecord]:
    """The alerts and the Event about the node itself."""
    for number, (name, severity, summary) in enumerate(_NODE_ALERTS):
        labels = {"alertname": name, "cluster": CLUSTER, "severity": severity, "node": NODE}
        begin = 0.8 + number * 0.15
        for turn in range(5):
            recovered = begin + 4 * RESEND if turn == 4 else None
            yield IncidentRecord(
                begin + turn * RESEND, msgspec.json.encode(_alert(labels, summary, start, begin, recovered))
            )
    about = {"kind": "Node", "name": NODE}
    yield IncidentRecord(1.1, _event("NodeNotReady", about, f"Node {NODE} status is now: NodeNotReady", start, 1.1))


def _probes(rng: Random, start: int) -> Iterator[IncidentRecord]:
    """External probes as CloudEvents: most in structured mode, some in binary mode."""
    for number, namespace in enumerate(NAMESPACES[::2]):
        labels = {
            "alertname": "ProbeFailed", "cluster": CLUSTER, "severity": "critical", "namespace": namespace,
            "service": f"{namespace}-api",
        }  # fmt: skip
        begin = rng.uniform(3.6, 4.2)
        for turn in range(5):
            at = begin + turn * 1.1
            alert = _alert(labels, f"https://{namespace}.example.com/ does not respond", start, begin, None)
            about = {"id": f"{namespace}-{turn}", "source": "/probes/fra1", "type": "com.example.probe.failed"}
            if number % 5 == 4:
                headers = {"specversion": "1.0", **about}
                yield IncidentRecord(
                    at, msgspec.json.encode(alert),
                    (
                        ("content-type", b"application/json"),
                        *((f"ce_{name}", value.encode()) for name, value in headers.items()),
                    ),
                )  # fmt: skip
            else:
                event = {"specversion": "1.0", **about, "datacontenttype": "application/json", "data": alert}
                yield IncidentRecord(
                    at, msgspec.json.encode(event), (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
                )


def _events(rng: Random, pods: Sequence[Labels], start: int) -> Iterator[IncidentRecord]:
    """Kubernetes Events about pods, repeated as the kubelet and the scheduler do."""
    for reason, begin, end, message in _EVENTS:
        for pod in rng.sample(pods, len(pods) // 2):
            at = begin + rng.random()
            while at < end:
                about = {"kind": "Pod", "namespace": pod["namespace"], "name": pod["pod"]}
                yield IncidentRecord(at, _event(reason, about, message, start, at))
                at += rng.uniform(0.9, 1.9)


def _noise(rng: Random, start: int) -> Iterator[IncidentRecord]:
    """Alerts with other causes, in other clusters: one per record, or as a list in the format of Alertmanager's API."""
    for number, (name, severity, key, resources, cluster) in enumerate(_NOISE):
        begin = rng.uniform(0.1, 7.0)
        alerts = [
            _alert(
                {"alertname": name, "cluster": cluster, "severity": severity, key: resource}, name, start, begin, None
            )
            for resource in resources
        ]  # fmt: skip
        if number % 3 == 0:
            yield IncidentRecord(begin, msgspec.json.encode(alerts), alerts=len(alerts))
            continue
        for turn in range(1 + number % 4):
            for alert in alerts:
                yield IncidentRecord(begin + turn * 0.6 + rng.uniform(0, 0.2), msgspec.json.encode(alert))


def _staging(rng: Random, start: int) -> Iterator[IncidentRecord]:
    """A cluster that is being rebuilt; its alerts are silenced."""
    for turn in range(8):
        alerts = [
            _alert(
                {"alertname": "KubePodNotReady", "cluster": "staging", "severity": "warning", "namespace": "staging",
                 "pod": f"preview-{number}"},
                "Pod has been in a non-ready state", start, 0.5, None,
            )
            for number in range(12)
        ]  # fmt: skip
        at = 0.5 + turn * RESEND + rng.uniform(0, 0.1)
        yield IncidentRecord(at, _webhook("KubePodNotReady", "staging", alerts), alerts=len(alerts))


def _alert(labels: Labels, summary: str, start: int, failed: float, recovered: float | None) -> dict[str, Any]:
    """An alert in Alertmanager's format; resolved if it has a time of recovery."""
    return {
        "status": "firing" if recovered is None else "resolved",
        "labels": labels,
        "annotations": {"summary": summary, "runbook_url": f"{_RUNBOOKS}/{labels['alertname'].lower()}"},
        "startsAt": _time(start, failed),
        "endsAt": "0001-01-01T00:00:00Z" if recovered is None else _time(start, recovered),
        "generatorURL": f"https://prometheus.example.com/graph?alert={labels['alertname']}",
        "fingerprint": fingerprint(labels),
    }


def _webhook(name: str, namespace: str, alerts: Sequence[Mapping[str, Any]]) -> bytes:
    """A webhook of Alertmanager, version 4."""
    return msgspec.json.encode(
        {
            "version": "4",
            "groupKey": f'{{}}/{{}}:{{alertname="{name}", namespace="{namespace}"}}',
            "truncatedAlerts": 0,
            "status": "firing" if any(alert["status"] == "firing" for alert in alerts) else "resolved",
            "receiver": "stormfold",
            "groupLabels": {"alertname": name, "namespace": namespace},
            "commonLabels": _common(alert["labels"] for alert in alerts),
            "commonAnnotations": _common(alert["annotations"] for alert in alerts),
            "externalURL": "https://alertmanager.example.com",
            "alerts": alerts,
        }
    )


def _common(all_labels: Iterable[Labels]) -> Labels:
    return dict(set.intersection(*(set(labels.items()) for labels in all_labels)))


def _event(reason: str, about: Mapping[str, str], message: str, start: int, at: float) -> bytes:
    """A Kubernetes Event (core/v1) in the format of event exporters."""
    namespace = about.get("namespace", "default")
    moment = _time(start, at)
    return msgspec.json.encode(
        {
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": {"name": f"{about['name']}.{round(at * 1e9):x}", "namespace": namespace},
            "involvedObject": {"apiVersion": "v1", **about},
            "reason": reason,
            "message": message,
            "type": "Warning",
            "source": {"component": "kubelet", "host": NODE},
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "count": 1,
        }
    )


def _letters(rng: Random, count: int) -> str:
    return "".join(rng.choices(_LETTERS, k=count))


def _time(start: int, offset: float) -> str:
    return format_timestamp(start + round(offset * 1000))
