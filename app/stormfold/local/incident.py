"""A simulated incident: a node dies, the pods of thirty namespaces fail, and unrelated alerts continue.

Pure: the same seed and start give the same records. They have the formats of a real cluster: webhooks of Alertmanager,
repeated until their alerts are resolved, Kubernetes Events, plain alerts, CloudEvents, and one invalid record. What
fails when is in `incident.yaml`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from random import Random
from typing import Any, NamedTuple

import msgspec

from stormfold.fingerprint import fingerprint
from stormfold.times import format_timestamp

RESEND = 0.75
"""Seconds until Alertmanager repeats a group. In reality these are minutes, and the incident takes an hour."""
INVALID = b"upstream connect error or disconnect/reset before headers. reset reason: connection termination\n"
"""The value of the record that cannot be parsed."""
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
    """An alert rule; see `incident.yaml`."""

    name: str
    severity: str
    kind: str
    share: float
    begin: float
    end: float
    summary: str


class _StateMetrics(msgspec.Struct, frozen=True):
    labels: Labels
    alerts: frozenset[str]


class _Script(msgspec.Struct, frozen=True):
    """The content of `incident.yaml`."""

    cluster: str
    node: str
    namespaces: tuple[str, ...]
    chapters: tuple[tuple[float, str], ...]
    symptoms: tuple[_Symptom, ...]
    state_metrics: _StateMetrics
    events: tuple[tuple[str, float, float, str], ...]
    node_alerts: tuple[tuple[str, str, str], ...]
    noise: tuple[tuple[str, str, str, tuple[str, ...], str], ...]


SCRIPT = msgspec.yaml.decode((files("stormfold.local") / "incident.yaml").read_text(), type=_Script)


def incident(seed: int, start: int) -> list[IncidentRecord]:
    """Returns the records in order of time. `start` (Unix time, ms) is the base of the times in alerts."""
    return sorted(_Incident(Random(seed), start).records(), key=lambda record: record.at)


@dataclass(frozen=True)
class _Incident:
    rng: Random
    start: int

    def records(self) -> Iterator[IncidentRecord]:
        resources = self._resources()
        yield from self._dead_node()
        for symptom in SCRIPT.symptoms:
            yield from self._alertmanager(symptom, resources[symptom.kind])
        yield from self._probes()
        yield from self._events(resources["pod"])
        yield from self._noise()
        yield from self._staging()
        yield IncidentRecord(4.4, INVALID, (("content-type", b"text/plain"),), alerts=0)

    def _resources(self) -> Mapping[str, list[Labels]]:
        """Labels of the resources on the node and of those that depend on it, by kind."""
        rng = self.rng
        found: defaultdict[str, list[Labels]] = defaultdict(list)

        def add(kind: str, **labels: str) -> None:
            found[kind].append(labels)

        for number, namespace in enumerate(SCRIPT.namespaces):
            for workload in rng.sample(("api", "web", "worker", "consumer"), rng.randint(2, 3)):
                name = f"{namespace}-{workload}"
                add("deployment", namespace=namespace, deployment=name)
                add("service", namespace=namespace, service=name)
                if workload in ("api", "web") and rng.random() < 0.6:
                    add("horizontalpodautoscaler", namespace=namespace, horizontalpodautoscaler=name)
                version = self._letters(9)
                for _ in range(rng.randint(1, 2)):
                    add("pod", namespace=namespace, pod=f"{name}-{version}-{self._letters(5)}", container=workload)
            if number % 3 == 0:
                add("statefulset", namespace=namespace, statefulset=f"{namespace}-db")
                add("pod", namespace=namespace, pod=f"{namespace}-db-0", container="postgres")
                add("claim", namespace=namespace, persistentvolumeclaim=f"data-{namespace}-db-0")
            add("target", namespace=namespace, job=namespace, instance=f"10.0.7.{10 + number}:8080")
        for name in ("node-exporter", "kube-proxy", "cilium", "fluent-bit", "csi-node", "node-local-dns"):
            add("daemonset", namespace="kube-system", daemonset=name)
        return found

    def _alertmanager(self, symptom: _Symptom, resources: Sequence[Labels]) -> Iterator[IncidentRecord]:
        """Webhooks with the alerts of one namespace, from the first alert on every `RESEND` until all are resolved."""
        rng = self.rng
        groups: defaultdict[str, list[tuple[float, float, Labels]]] = defaultdict(list)
        for resource in rng.sample(resources, round(symptom.share * len(resources))):
            # Most fail at once and recover slowly.
            failed = symptom.begin + 1.2 * rng.random() ** 2
            recovered = symptom.end - (symptom.end - symptom.begin) * 0.25 * rng.random()
            groups[resource["namespace"]].append((failed, recovered, resource))
        for namespace, group in groups.items():
            sent, at = 0.0, min(failed for failed, _, _ in group) + rng.uniform(0.05, 0.2)
            while sent < max(recovered for _, recovered, _ in group):
                alerts = [
                    self._alert(
                        symptom.name, symptom.severity, resource, symptom.summary, failed,
                        recovered if recovered <= at else None,
                    )
                    for failed, recovered, resource in group
                    if failed <= at and recovered > sent
                ]  # fmt: skip
                yield IncidentRecord(at, _webhook(symptom.name, namespace, alerts), alerts=len(alerts))
                sent, at = at, at + RESEND * rng.uniform(0.9, 1.1)

    def _dead_node(self) -> Iterator[IncidentRecord]:
        """The alerts and the Event about the node itself."""
        for number, (name, severity, summary) in enumerate(SCRIPT.node_alerts):
            begin = 0.8 + number * 0.15
            for turn in range(5):
                recovered = begin + 4 * RESEND if turn == 4 else None
                alert = self._alert(name, severity, {"node": SCRIPT.node}, summary, begin, recovered)
                yield IncidentRecord(begin + turn * RESEND, msgspec.json.encode(alert))
        message = f"Node {SCRIPT.node} status is now: NodeNotReady"
        yield self._event("NodeNotReady", {"kind": "Node", "name": SCRIPT.node}, message, 1.1)

    def _probes(self) -> Iterator[IncidentRecord]:
        """External probes as CloudEvents: most in structured mode, some in binary mode."""
        for number, namespace in enumerate(SCRIPT.namespaces[::2]):
            labels = {"namespace": namespace, "service": f"{namespace}-api"}
            begin = self.rng.uniform(3.6, 4.2)
            summary = f"https://{namespace}.example.com/ does not respond"
            alert = self._alert("ProbeFailed", "critical", labels, summary, begin)
            for turn in range(5):
                event = {
                    "specversion": "1.0", "id": f"{namespace}-{turn}", "source": "/probes/fra1",
                    "type": "com.example.probe.failed",
                }  # fmt: skip
                content_type, value = b"application/json", msgspec.json.encode(alert)
                headers = tuple((f"ce_{name}", text.encode()) for name, text in event.items())
                if number % 5 != 4:
                    content_type, headers = b"application/cloudevents+json; charset=UTF-8", ()
                    value = msgspec.json.encode({**event, "datacontenttype": "application/json", "data": alert})
                yield IncidentRecord(begin + turn * 1.1, value, (("content-type", content_type), *headers))

    def _events(self, pods: Sequence[Labels]) -> Iterator[IncidentRecord]:
        """Kubernetes Events about pods, repeated as the kubelet and the scheduler do."""
        for reason, begin, end, message in SCRIPT.events:
            for pod in self.rng.sample(pods, len(pods) // 2):
                at = begin + self.rng.random()
                while at < end:
                    about = {"kind": "Pod", "namespace": pod["namespace"], "name": pod["pod"]}
                    yield self._event(reason, about, message, at)
                    at += self.rng.uniform(0.9, 1.9)

    def _noise(self) -> Iterator[IncidentRecord]:
        """Alerts with other causes: one per record, or as a list in the format of Alertmanager's API."""
        for number, (name, severity, label, resources, cluster) in enumerate(SCRIPT.noise):
            begin = self.rng.uniform(0.1, 7.0)
            alerts = [self._alert(name, severity, {label: it, "cluster": cluster}, name, begin) for it in resources]
            if number % 3 == 0:
                yield IncidentRecord(begin, msgspec.json.encode(alerts), alerts=len(alerts))
                continue
            for turn in range(1 + number % 4):
                for alert in alerts:
                    at = begin + turn * 0.6 + self.rng.uniform(0, 0.2)
                    yield IncidentRecord(at, msgspec.json.encode(alert))

    def _staging(self) -> Iterator[IncidentRecord]:
        """A cluster that is being rebuilt; its alerts are silenced."""
        place = {"cluster": "staging", "namespace": "staging"}
        summary = "Pod has been in a non-ready state"
        alerts = [
            self._alert("KubePodNotReady", "warning", place | {"pod": f"preview-{number}"}, summary, 0.5)
            for number in range(12)
        ]
        for turn in range(8):
            at = 0.5 + turn * RESEND + self.rng.uniform(0, 0.1)
            yield IncidentRecord(at, _webhook("KubePodNotReady", "staging", alerts), alerts=len(alerts))

    def _alert(
        self, name: str, severity: str, labels: Labels, summary: str, failed: float, recovered: float | None = None
    ) -> dict[str, Any]:
        """An alert in Alertmanager's format, in the cluster of the incident unless `labels` has another."""
        target = SCRIPT.state_metrics.labels if name in SCRIPT.state_metrics.alerts else {}
        labels = {"alertname": name, "cluster": SCRIPT.cluster, "severity": severity, **target, **labels}
        return {
            "status": "firing" if recovered is None else "resolved",
            "labels": labels,
            "annotations": {"summary": summary, "runbook_url": f"https://runbooks.example.com/{name.lower()}"},
            "startsAt": self._time(failed),
            "endsAt": "0001-01-01T00:00:00Z" if recovered is None else self._time(recovered),
            "generatorURL": f"https://prometheus.example.com/graph?alert={name}",
            "fingerprint": fingerprint(labels),
        }

    def _event(self, reason: str, about: Mapping[str, str], message: str, at: float) -> IncidentRecord:
        """A Kubernetes Event (core/v1) in the format of event exporters."""
        event = {
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": {
                "name": f"{about['name']}.{round(at * 1e9):x}",
                "namespace": about.get("namespace", "default"),
            },
            "involvedObject": {"apiVersion": "v1", **about},
            "reason": reason,
            "message": message,
            "type": "Warning",
            "source": {"component": "kubelet", "host": SCRIPT.node},
            "firstTimestamp": self._time(at),
            "lastTimestamp": self._time(at),
            "count": 1,
        }
        return IncidentRecord(at, msgspec.json.encode(event))

    def _letters(self, count: int) -> str:
        return "".join(self.rng.choices(_LETTERS, k=count))

    def _time(self, at: float) -> str:
        return format_timestamp(self.start + round(at * 1000))


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
