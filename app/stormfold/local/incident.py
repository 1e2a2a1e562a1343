"""An incident, told in real time: a node dies, the pods of thirty namespaces follow, and the rest of the world goes on.

Pure: the same seed and start give the same records. What reaches Kafka is what such an evening sends: Alertmanager's
webhooks, each group again and again until it is resolved, Kubernetes Events, plain alerts, CloudEvents, and garbage.
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
"""Seconds after which Alertmanager sends a group again: minutes in life, where the incident would take an hour."""
CHAPTERS = (
    (0.0, "An ordinary evening: a few unrelated alerts"),
    (0.8, f"{NODE} stops answering"),
    (1.4, "Its pods are gone, in thirty namespaces; their controllers notice"),
    (2.6, "New pods crash: what they depend on was on the same node"),
    (3.6, "Services fail; probes from outside fail"),
    (5.6, f"{NODE} is replaced"),
    (7.0, "Pods get ready, one service after the other: resolutions come in"),
    (9.4, "Quiet"),
)
"""Seconds after the beginning, and what happens."""

_RUNBOOKS = "https://runbooks.example.com"
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"

Labels = dict[str, str]


class Told(NamedTuple):
    """One record of the incident."""

    at: float
    """Seconds after the beginning."""
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    alerts: int = 1
    """Alerts in it; 0: nobody can understand it."""


class _Symptom(NamedTuple):
    """One kind of alert, about each of some things: from seconds `begin` on, over after `end` at the latest."""

    name: str
    severity: str
    what: str
    share: float
    """Of the things of that sort, how many are hit."""
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
"""What Alertmanager tells of, grouped by namespace."""

_EVENTS = (
    ("BackOff", 2.8, 8.4, "Back-off restarting failed container"),
    ("FailedScheduling", 1.6, 5.4, "0/12 nodes are available: 11 Insufficient cpu, 1 node(s) were unreachable"),
    ("Unhealthy", 3.2, 8.0, "Readiness probe failed: dial tcp: i/o timeout"),
)
"""What the event exporter tells of each pod: reason, from, until, message."""

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
"""Name, severity, the label that says what it is about, the things, the cluster: none of it has to do with the node."""

GARBAGE = b"upstream connect error or disconnect/reset before headers. reset reason: connection termination\n"


def incident(seed: int, start: int) -> list[Told]:
    """The records in order of time; `start` is the moment of the beginning (ms), for the times that alerts carry."""
    rng = Random(seed)
    things = _world(rng)
    records = [
        *_dead_node(start),
        *(record for symptom in _SYMPTOMS for record in _alertmanager(rng, symptom, things[symptom.what], start)),
        *_probes(rng, start),
        *_events(rng, things["pod"], start),
        *_noise(rng, start),
        *_staging(rng, start),
        Told(4.4, GARBAGE, (("content-type", b"text/plain"),), alerts=0),
    ]
    return sorted(records, key=lambda record: record.at)


def _world(rng: Random) -> Mapping[str, list[Labels]]:
    """What ran on the node or leans on it, by sort: the labels that tell one from another."""
    things: defaultdict[str, list[Labels]] = defaultdict(list)
    for number, namespace in enumerate(NAMESPACES):
        for workload in rng.sample(("api", "web", "worker", "consumer"), rng.randint(2, 3)):
            name = f"{namespace}-{workload}"
            things["deployment"].append({"namespace": namespace, "deployment": name})
            things["service"].append({"namespace": namespace, "service": name})
            if workload in ("api", "web") and rng.random() < 0.6:
                things["horizontalpodautoscaler"].append({"namespace": namespace, "horizontalpodautoscaler": name})
            version = _letters(rng, 9)
            things["pod"] += [
                {"namespace": namespace, "pod": f"{name}-{version}-{_letters(rng, 5)}", "container": workload}
                for _ in range(rng.randint(1, 2))
            ]
        if number % 3 == 0:
            things["statefulset"].append({"namespace": namespace, "statefulset": f"{namespace}-db"})
            things["pod"].append({"namespace": namespace, "pod": f"{namespace}-db-0", "container": "postgres"})
            things["claim"].append({"namespace": namespace, "persistentvolumeclaim": f"data-{namespace}-db-0"})
        things["target"].append({"namespace": namespace, "job": namespace, "instance": f"10.0.7.{10 + number}:8080"})
    for name in ("node-exporter", "kube-proxy", "cilium", "fluent-bit", "csi-node", "node-local-dns"):
        things["daemonset"].append({"namespace": "kube-system", "daemonset": name})
    return things


def _alertmanager(rng: Random, symptom: _Symptom, things: Sequence[Labels], start: int) -> Iterator[Told]:
    """Webhooks: a namespace's alerts together, as soon as there are some and again every `RESEND` until all is well."""
    lives: defaultdict[str, list[tuple[float, float, Labels]]] = defaultdict(list)
    for thing in rng.sample(things, round(symptom.share * len(things))):
        # Most break at once and get well slowly.
        broken = symptom.begin + 1.2 * rng.random() ** 2
        well = symptom.end - (symptom.end - symptom.begin) * 0.25 * rng.random()
        labels = {"alertname": symptom.name, "cluster": CLUSTER, "severity": symptom.severity, **thing}
        lives[thing["namespace"]].append((broken, well, labels))
    for namespace, group in lives.items():
        told, at = 0.0, min(broken for broken, _, _ in group) + rng.uniform(0.05, 0.2)
        while told < max(well for _, well, _ in group):
            alerts = [
                _alert(labels, symptom.summary, start, broken, well if well <= at else None)
                for broken, well, labels in group
                if broken <= at and well > told
            ]
            yield Told(at, _webhook(symptom.name, namespace, alerts), alerts=len(alerts))
            told, at = at, at + RESEND * rng.uniform(0.9, 1.1)


def _dead_node(start: int) -> Iterator[Told]:
    """What the node's own alerts and events say, from the rule evaluator and the event exporter."""
    for number, (name, severity, summary) in enumerate(_NODE_ALERTS):
        labels = {"alertname": name, "cluster": CLUSTER, "severity": severity, "node": NODE}
        begin = 0.8 + number * 0.15
        for turn in range(5):
            well = begin + 4 * RESEND if turn == 4 else None
            yield Told(begin + turn * RESEND, msgspec.json.encode(_alert(labels, summary, start, begin, well)))
    about = {"kind": "Node", "name": NODE}
    yield Told(1.1, _event("NodeNotReady", about, f"Node {NODE} status is now: NodeNotReady", start, 1.1))


def _probes(rng: Random, start: int) -> Iterator[Told]:
    """Checks from outside, as CloudEvents: most with the event as the value, some with it in the headers."""
    for number, namespace in enumerate(NAMESPACES[::2]):
        labels = {
            "alertname": "ProbeFailed", "cluster": CLUSTER, "severity": "critical", "namespace": namespace,
            "service": f"{namespace}-api",
        }  # fmt: skip
        begin = rng.uniform(3.6, 4.2)
        for turn in range(5):
            at = begin + turn * 1.1
            alert = _alert(labels, f"https://{namespace}.example.com/ does not answer", start, begin, None)
            about = {"id": f"{namespace}-{turn}", "source": "/probes/fra1", "type": "com.example.probe.failed"}
            if number % 5 == 4:
                headers = {"specversion": "1.0", **about}
                yield Told(
                    at, msgspec.json.encode(alert),
                    (
                        ("content-type", b"application/json"),
                        *((f"ce_{name}", value.encode()) for name, value in headers.items()),
                    ),
                )  # fmt: skip
            else:
                event = {"specversion": "1.0", **about, "datacontenttype": "application/json", "data": alert}
                yield Told(
                    at, msgspec.json.encode(event), (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
                )


def _events(rng: Random, pods: Sequence[Labels], start: int) -> Iterator[Told]:
    """Kubernetes Events about pods, each repeated as the kubelet and the scheduler do."""
    for reason, begin, end, message in _EVENTS:
        for pod in rng.sample(pods, len(pods) // 2):
            at = begin + rng.random()
            while at < end:
                about = {"kind": "Pod", "namespace": pod["namespace"], "name": pod["pod"]}
                yield Told(at, _event(reason, about, message, start, at))
                at += rng.uniform(0.9, 1.9)


def _noise(rng: Random, start: int) -> Iterator[Told]:
    """Alerts of other causes and clusters, a few of each: one by one, or as a list as Alertmanager's API does."""
    for number, (name, severity, key, things, cluster) in enumerate(_NOISE):
        begin = rng.uniform(0.1, 7.0)
        alerts = [
            _alert(
                {"alertname": name, "cluster": cluster, "severity": severity, key: thing}, name, start, begin, None
            )
            for thing in things
        ]  # fmt: skip
        if number % 3 == 0:
            yield Told(begin, msgspec.json.encode(alerts), alerts=len(alerts))
            continue
        for turn in range(1 + number % 4):
            for alert in alerts:
                yield Told(begin + turn * 0.6 + rng.uniform(0, 0.2), msgspec.json.encode(alert))


def _staging(rng: Random, start: int) -> Iterator[Told]:
    """A cluster that is being rebuilt, and whose alerts somebody has silenced."""
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
        yield Told(at, _webhook("KubePodNotReady", "staging", alerts), alerts=len(alerts))


def _alert(labels: Labels, summary: str, start: int, broken: float, well: float | None) -> dict[str, Any]:
    """An alert as Alertmanager and its kind write it; resolved if it has an end."""
    return {
        "status": "firing" if well is None else "resolved",
        "labels": labels,
        "annotations": {"summary": summary, "runbook_url": f"{_RUNBOOKS}/{labels['alertname'].lower()}"},
        "startsAt": _time(start, broken),
        "endsAt": "0001-01-01T00:00:00Z" if well is None else _time(start, well),
        "generatorURL": f"https://prometheus.example.com/graph?alert={labels['alertname']}",
        "fingerprint": fingerprint(labels),
    }


def _webhook(name: str, namespace: str, alerts: Sequence[Mapping[str, Any]]) -> bytes:
    """Alertmanager's webhook, version 4."""
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
    """A Kubernetes Event, core/v1, as an event exporter writes it."""
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
