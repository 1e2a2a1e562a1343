"""Records as real producers write them: the alerts that they hold, and the resource and severity of each."""

import json
from typing import Any, NamedTuple

import msgspec
import pytest

from stormfold.config import Config
from stormfold.decoding import Poison, decode_labels
from stormfold.formats import parse
from stormfold.group import GroupMeta
from stormfold.keyed_record import Body
from stormfold.resource import Resource
from stormfold.series import SeriesReader

NOW = 1_798_000_000_000


class Outcome(NamedTuple):
    """The decisions about one alert."""

    resource: str
    severity: str
    resolved: bool
    group: dict[str, str]


def outcomes(record: Any, config: Config | None = None) -> list[Outcome]:
    """The decisions about the alerts of a record, given as JSON or as a value for it."""
    value = record if isinstance(record, bytes) else json.dumps(record).encode()
    found = []
    for keyed, alert in SeriesReader(config or Config()).parse(value, [], NOW):
        body = msgspec.msgpack.decode(keyed.body, type=Body)
        meta = msgspec.msgpack.decode(body.meta, type=GroupMeta)
        resource = str(msgspec.msgpack.decode(body.resource, type=Resource)) if body.resource else ""
        found.append(Outcome(resource, body.severity, alert.resolved, meta.labels))
    return found


def outcome(record: Any, config: Config | None = None) -> Outcome:
    (found,) = outcomes(record, config)
    return found


def plain(**labels: str) -> dict[str, Any]:
    return {"labels": {"alertname": "A", **labels}, "status": "firing"}


def event(about: dict[str, str], **fields: Any) -> dict[str, Any]:
    return {"kind": "Event", "involvedObject": about, "reason": "R", "type": "Warning", **fields}


STATE_METRICS = {"job": "kube-state-metrics", "container": "kube-state-metrics", "pod": "kube-state-metrics-x"}
NODE_EXPORTER = {"job": "node-exporter", "container": "node-exporter", "pod": "node-exporter-b", "namespace": "mon"}


@pytest.mark.parametrize(
    ("labels", "resource"),
    [
        ({**STATE_METRICS, "namespace": "mon", "node": "n1"}, "Node/n1"),
        ({**STATE_METRICS, "namespace": "shop", "deployment": "web"}, "Deployment/shop/web"),
        ({**STATE_METRICS, "namespace": "shop", "resourcequota": "q", "service": "ksm", "instance": "10.0.0.1:8080"},
         "Namespace/shop"),
        ({**STATE_METRICS, "pod": "filebeat-x", "container": "filebeat", "namespace": "logs"}, "Pod/logs/filebeat-x"),
        ({**STATE_METRICS, "job": "monitoring/kube-state-metrics", "namespace": "mon", "node": "n1"}, "Node/n1"),
        ({**STATE_METRICS, "job": "openshift-state-metrics", "pod": "openshift-state-metrics-x", "namespace": "shop"},
         "Namespace/shop"),
        ({**STATE_METRICS, "namespace": "mon", "exported_namespace": "shop", "deployment": "web"},
         "Deployment/shop/web"),
        ({**NODE_EXPORTER, "instance": "metal01", "node": "metal01"}, "Node/metal01"),
        ({**NODE_EXPORTER, "instance": "10.0.0.1:9100"}, "Instance/10.0.0.1:9100"),
        ({"exported_namespace": "team-x", "exported_pod": "infer-1", "namespace": "gpu-operator", "pod": "dcgm-1"},
         "Pod/team-x/infer-1"),
        ({"job": "api", "pod": "api-1", "namespace": "shop", "service": "api"}, "Pod/shop/api-1"),
        ({"job": "kubelet", "pod": "api-1", "namespace": "shop", "node": "n1", "container": "api"}, "Pod/shop/api-1"),
        ({"exported_namespace": "shop", "namespace": "mon", "pod": "probe-1"}, "Pod/mon/probe-1"),
    ],
)  # fmt: skip
def test_the_resource_is_not_the_exporter_that_reported_it(labels: dict[str, str], resource: str) -> None:
    assert outcome(plain(**labels)).resource == resource


def test_exporters_are_configurable() -> None:
    labels = {"job": "team/probe", "pod": "probe-1", "namespace": "mon", "instance": "https://shop"}
    assert outcome(plain(**labels)).resource == "Pod/mon/probe-1"
    assert outcome(plain(**labels), Config(exporters=("prob?",))).resource == "Instance/https://shop"


@pytest.mark.parametrize(
    ("words", "severity"),
    [
        ("critical Critical CRITICAL crit page P1 p1 fatal emergency disaster sev1 Sev1", "critical"),
        ("error ERR high HIGH major P2", "error"),
        ("warning Warning WARNING warn minor average medium p3", "warning"),
        ("info Info information informational notice low", "info"),
        ("none NONE ok", "none"),
        ("1 bananas", "warning"),
    ],
)
def test_every_spelling_of_a_severity_ranks_like_its_meaning(words: str, severity: str) -> None:
    assert {outcome(plain(severity=word)).severity for word in words.split()} == {severity}


def test_an_alert_without_a_severity_ranks_as_warning() -> None:
    assert outcome(plain()).severity == "warning"
    assert outcome(plain(), Config(severities=("high", "low"))).severity == "low"


def test_severity_aliases_are_configurable_and_come_before_the_usual_ones() -> None:
    config = Config(severity_aliases={"Bananas": "error", "page": "info"})
    assert [outcome(plain(severity=word), config).severity for word in ("BANANAS", "page", "fatal")] == [
        "error", "info", "critical",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("about", "fields", "resource"),
    [
        ({"kind": "Certificate", "namespace": "shop", "name": "tls"}, {}, "Certificate/shop/tls"),
        ({"kind": "HelmRelease", "namespace": "shop", "name": "web"}, {}, "HelmRelease/shop/web"),
        ({"kind": "NodeClaim", "name": "c1"}, {"metadata": {"namespace": "default"}}, "NodeClaim/c1"),
        ({"kind": "Anything", "name": "x"}, {"metadata": {"namespace": "default"}}, "Anything/x"),
        ({"kind": "Cluster", "namespace": "db", "name": "pg-a"}, {}, "Cluster/db/pg-a"),
        ({"kind": "Instance", "namespace": "db", "name": "i-1"}, {}, "Instance/db/i-1"),
        ({"kind": "Node", "namespace": "default", "name": "n1"}, {"clusterName": "prod-eu"}, "Node/n1"),
        ({"kind": "Pod", "name": "a"}, {"metadata": {"namespace": "default"}}, "Pod/default/a"),
        ({"kind": "Namespace", "name": "shop"}, {"metadata": {"namespace": "default"}}, "Namespace/shop"),
    ],
)
def test_an_event_is_about_its_own_object(about: dict[str, str], fields: dict[str, Any], resource: str) -> None:
    found = outcome(event(about, **fields))
    assert found.resource == resource
    assert found.group.get("cluster") == fields.get("clusterName")


def test_events_of_two_clusters_are_two_alerts() -> None:
    about = {"kind": "Node", "namespace": "default", "name": "n1"}
    both = [event(about, clusterName=name) for name in ("prod-eu", "prod-us")]
    assert [found.group["cluster"] for found in outcomes(both)] == ["prod-eu", "prod-us"]
    keys = {keyed.key for keyed, _ in SeriesReader(Config()).parse(json.dumps(both).encode(), [], NOW)}
    assert len(keys) == 2


def test_a_severity_next_to_the_labels_counts_if_they_have_none() -> None:
    flux = {
        "involvedObject": {"kind": "Kustomization", "namespace": "apps", "name": "webapp"}, "severity": "error",
        "reason": "ValidationFailed", "message": "m", "metadata": {"kustomize.toolkit.fluxcd.io/revision": "main/731f"},
    }  # fmt: skip
    assert outcome(flux)[:2] == ("Kustomization/apps/webapp", "error")
    assert outcome({**flux, "severity": 3, "type": "Normal"}).severity == "info"
    assert outcome({**plain(), "severity": "critical"}).severity == "critical"
    assert outcome({**plain(severity="info"), "severity": "critical"}).severity == "info"


def test_default_labels_fill_in_missing_labels() -> None:
    config = Config(default_labels={"cluster": "prod", "team": "none"})
    assert outcome(plain(), config).group == {"alertname": "A", "cluster": "prod"}
    assert outcome(plain(cluster="lab"), config).group == {"alertname": "A", "cluster": "lab"}


WATCHED = {"kind": "Event", "involvedObject": {"kind": "Pod", "namespace": "shop", "name": "p"}, "reason": "BackOff"}


@pytest.mark.parametrize(
    "record",
    [
        {"specversion": "1.0", "type": "dev.knative.apiserver.resource.delete", "data": WATCHED},
        {"type": "DELETED", "object": WATCHED},
        {"type": "BOOKMARK", "object": {"kind": "Event", "metadata": {"resourceVersion": "9"}}},
        {"verb": "DELETED", "event": WATCHED},
        [{"verb": "DELETED", "event": WATCHED}],
        {"@timestamp": "2026-08-20T10:09:00.1Z", "instance": "am-0", "data": {"notification": {"alerts": []}}},
        {"@timestamp": "2026-08-20T10:09:00.1Z", "instance": "am-0", "data": {"alertmanagerShutdownEvent": {}}},
        {"status": "success", "data": {"alerts": [{"labels": {"alertname": "A"}, "state": "pending"}]}},
    ],
)
def test_a_record_without_news_holds_no_alert(record: Any) -> None:
    assert outcomes(record) == []


def test_a_binary_cloudevent_of_a_deletion_holds_no_alert() -> None:
    headers = [("ce_specversion", b"1.0"), ("ce_type", b"dev.knative.apiserver.resource.delete")]
    assert parse(json.dumps(WATCHED).encode(), headers, NOW) == []


@pytest.mark.parametrize(
    "record",
    [
        {"verb": "ADDED", "event": WATCHED},
        {"verb": "UPDATED", "event": WATCHED, "old_event": WATCHED},
        {"type": "MODIFIED", "object": WATCHED},
        [{"specversion": "1.0", "type": "dev.knative.apiserver.resource.add", "data": WATCHED}],
    ],
)
def test_events_are_found_in_envelopes(record: Any) -> None:
    assert outcome(record) == Outcome("Pod/shop/p", "warning", False, {"alertname": "BackOff"})


@pytest.mark.parametrize(
    "data",
    [
        {"alerts": [{"labels": {"alertname": "A"}, "state": "firing", "activeAt": "2026-11-01T00:00:00Z"},
                    {"labels": {"alertname": "B"}, "state": "pending"}]},
        [{"labels": {"alertname": "A"}, "status": {"state": "active"}, "startsAt": "2026-11-01T00:00:00Z"}],
    ],
)  # fmt: skip
def test_answers_of_the_apis_hold_their_alerts(data: Any) -> None:
    (alert,) = parse(json.dumps({"status": "success", "data": data}).encode(), [], NOW)
    assert decode_labels(alert.labels) == {"alertname": "A"}
    assert (alert.resolved, alert.starts_at) == (False, 1_793_491_200_000)


LABELS = {"alertname": "KubePodCrashLooping", "namespace": "shop", "pod": "api-1", "severity": "critical"}


def recorded(version: int, **fields: Any) -> dict[str, Any]:
    """An alert as the event recorder writes it under schema v1 or v2."""
    pairs = {"labels": [{"key": key, "value": value} for key, value in LABELS.items()]}
    summary = {"labels": [{"key": "summary", "value": "crash"}]} if version == 1 else {"summary": "crash"}
    return {
        "fingerprint": str(int("dbc2b99ea1920a0d", 16)), "name": LABELS["alertname"],
        "labels": pairs if version == 1 else LABELS, "annotations": summary,
        "startsAt": "2026-08-20T10:00:00Z", "endsAt": "2026-08-20T10:04:00Z", **fields,
    }  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
def test_the_event_recorder_reports_creation_and_resolution(version: int) -> None:
    created = {"alertCreated": {"alert": recorded(version)}}
    resolved = {"alertResolved": {"alert": {"hash": "9", "details": recorded(version, resolved=True)}, "groupInfo": {}}}
    for data, is_resolved in ((created, False), (resolved, True)):
        record = {"@timestamp": "2026-08-20T10:00:00.1Z", "instance": "am-0", "clusterPosition": 1, "data": data}
        (alert,) = parse(json.dumps(record).encode(), [], NOW)
        assert decode_labels(alert.labels) == LABELS
        assert alert.annotations == b'{"summary":"crash"}' or json.loads(alert.annotations) == {"summary": "crash"}
        assert (alert.resolved, alert.fingerprint) == (is_resolved, "dbc2b99ea1920a0d")
        assert alert.starts_at == 1_787_220_000_000


def test_a_webhook_s_own_status_and_name_count_for_alerts_without_them() -> None:
    webhook = {
        "version": "4", "status": "resolved", "commonLabels": {"alertname": "HighMemory", "job": "x"},
        "alerts": [{"labels": {"instance": "a"}, "endsAt": "0001-01-01T00:00:00Z"},
                   {"labels": {"instance": "b", "alertname": "Own"}, "status": "firing"}],
    }  # fmt: skip
    assert [(found.group, found.resolved) for found in outcomes(webhook)] == [
        ({"alertname": "HighMemory"}, True), ({"alertname": "Own"}, False),
    ]  # fmt: skip


def refusal(record: Any) -> str:
    with pytest.raises(Poison) as caught:
        parse(json.dumps(record).encode(), [], NOW)
    return str(caught.value)


@pytest.mark.parametrize(
    "record",
    [
        {"severity": "ERROR", "labels": {"k8s-pod/app": "hello"}, "logName": "projects/p/logs/stderr"},
        {"name": "HighCPU", "status": "firing", "severity": "critical", "labels": {"host": "h1"}},
        {"@timestamp": "2026-01-01T00:00:00Z", "labels": {"app": "x"}, "message": "m", "ecs": {"version": "8"}},
        {"labels": {"host": "h1"}},
        {"host": "h", "state": 2, "type": "StateChange"},
        {"alert_state": "alerting", "client": "Grafana", "description": "[FIRING:2]"},
        {"labels": ["a", "b"], "status": 3},
        {"type": "ADDED", "object": {"kind": "Pod", "metadata": {"name": "p"}}},
    ],
)
def test_a_record_that_is_not_an_alert_is_refused(record: Any) -> None:
    assert refusal(record)


def test_a_refusal_names_the_keys_and_the_remedy() -> None:
    for record, remedy in (
        ({"alert_state": "alerting", "client": "Grafana"}, "use its webhook contact point"),
        ({"schema": {}, "payload": {}}, "set schemas.enable=false"),
        ({"reason": "BackOff", "type": "Warning", "msg": "m"}, "leave `layout` out"),
        ({"labels": {"host": "h1"}}, "labels have no alertname: add it"),
        ({"check_result": {}, "state": 2}, "or a mapping"),
    ):
        reason = refusal(record)
        assert ", ".join(sorted(record)) in reason
        assert reason.endswith(remedy) or remedy in reason
    assert len(refusal({f"k{n}": n for n in range(1_000)})) < 300


def test_an_error_about_the_state_names_the_state() -> None:
    assert refusal({"labels": {"alertname": "A"}, "state": "odd"}).startswith("state: expected firing or resolved")
    assert refusal({"labels": {"alertname": "A"}, "status": {"state": "odd"}}).startswith("status.state: expected")


@pytest.mark.parametrize("start", [None, "", "0001-01-01T00:00:00Z", "2026-01-01T00:00:00", "soon", 5, {"a": [1]}])
def test_a_start_that_is_not_usable_is_no_reason_to_refuse(start: Any) -> None:
    (alert,) = parse(json.dumps({**plain(), "startsAt": start}).encode(), [], NOW)
    assert alert.starts_at is None


@pytest.mark.parametrize(
    "fields",
    [
        {"firstTimestamp": "2026-11-01T00:00:00Z", "eventTime": "2026-11-02T00:00:00Z"},
        {"firstTimestamp": None, "deprecatedFirstTimestamp": "2026-11-01T00:00:00Z"},
        {"eventTime": "2026-11-01T00:00:00.000000Z", "firstTimestamp": None},
        {"metadata": {"creationTimestamp": "2026-11-01T00:00:00Z"}},
    ],
)
def test_an_event_began_when_it_was_first_seen(fields: dict[str, Any]) -> None:
    (alert,) = parse(json.dumps(event({"kind": "Pod", "name": "a"}, **fields)).encode(), [], NOW)
    assert alert.starts_at == 1_793_491_200_000
