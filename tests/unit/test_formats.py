"""Every format as its senders write it, and the reasons for which other records are refused."""

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormfold.alert import Alert
from stormfold.decoding import Poison, decode_annotations, decode_labels
from stormfold.fingerprint import fingerprint
from stormfold.formats import check_contents, parse
from stormfold.resource import RESOURCE_LABELS, find_resource

SAMPLES = Path(__file__).parent / "testdata/formats"
NOW = 1_767_226_200_000
"""2026-01-01T00:10:00Z, the time of every sample's record."""
ALERT = {"labels": {"alertname": "A"}}

ACCEPTED = "expected labels with an alertname, a webhook's alerts, an Event's involvedObject, or a mapping"

Headers = list[tuple[str, bytes | None]]

type_headers: Headers = [("content-type", b"application/cloudevents+json; charset=utf-8")]
binary_headers: Headers = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("content-type", b"application/json")]


class Seen(NamedTuple):
    """The parts of an alert that tests compare."""

    labels: dict[str, str]
    summary: str | None = None
    resolved: bool = False
    fingerprint: str | None = None


def seen(alerts: list[Alert]) -> list[Seen]:
    """The alerts, with their labels and annotations read."""
    return [
        Seen(
            decode_labels(alert.labels),
            decode_annotations(alert.annotations).get("summary"),
            alert.resolved,
            alert.fingerprint,
        )
        for alert in alerts
    ]


def read(value: Any, headers: Headers | None = None, now: int = NOW) -> list[Alert]:
    """`parse` of a value, given as JSON or as an object that is encoded."""
    return parse(value if isinstance(value, bytes) else json.dumps(value).encode(), headers or [], now)


def refusal(value: Any, headers: Headers | None = None) -> str:
    """The reason for which a record is refused."""
    with pytest.raises(Poison) as caught:
        read(value, headers)
    return str(caught.value)


def alert(**fields: Any) -> dict[str, Any]:
    """An alert with these fields besides its labels."""
    return {**ALERT, **fields}


CRASH = {
    "alertname": "KubePodCrashLooping", "cluster": "prod", "container": "api", "job": "kube-state-metrics",
    "namespace": "payments", "severity": "warning",
}  # fmt: skip
DOWN = {"alertname": "InstanceDown", "job": "node", "severity": "critical"}

GOLDEN = {
    "webhook_v4": [
        Seen({**CRASH, "pod": "api-7d9f-x2x"}, "Pod is crash looping.", False, "75cb311b9982455f"),
        Seen({**CRASH, "pod": "api-7d9f-k8w"}, "Pod is crash looping.", True, "3a5fb4d55e274821"),
    ],
    "webhook_grafana": [
        Seen(
            {
                "alertname": "High memory usage", "grafana_folder": "Nodes", "instance": "10.0.3.7:9100",
                "team": "blue",
            },
            "Memory above 95 % for 10 minutes", False, "c6eadffa33fcdf37",
        ),
    ],
    "api_v2_alerts_get": [
        Seen(
            {"alertname": "KubeNodeNotReady", "cluster": "prod", "node": "worker-17", "severity": "critical"},
            "Node is not ready.", False, "538b2cf7b9c7494f",
        ),
        Seen(
            {"alertname": "KubeletDown", "cluster": "prod", "node": "worker-17", "severity": "warning"},
            None, False, "2402b64eed88649f",
        ),
    ],
    "api_v2_alerts_post": [
        Seen({**DOWN, "instance": "10.0.3.7:9100"}, "10.0.3.7:9100 has been down for 5 minutes", False),
        Seen({**DOWN, "instance": "10.0.3.8:9100"}, "10.0.3.8:9100 has been down for 5 minutes", True),
        Seen({**DOWN, "instance": "10.0.3.9:9100"}, None, False),
    ],
    "plain": [
        Seen(
            {"alertname": "DiskFull", "cluster": "prod", "node": "worker-3", "severity": "error"},
            "/var is full \U0001f525",
        )
    ],
    "event_core_v1": [
        Seen(
            {
                "alertname": "BackOff", "severity": "warning", "namespace": "payments", "pod": "api-7d9f-x2x",
                "reporting_component": "kubelet",
            },
            "Back-off restarting failed container api in pod api-7d9f-x2x_payments"
            "(7d1c9e0f-93a5-4f0e-8c43-b2f7f3b4f0b2)",
        )
    ],
    "event_events_v1": [
        Seen(
            {
                "alertname": "Completed", "severity": "info", "namespace": "batch", "job_name": "nightly-29459520",
                "reporting_component": "job-controller",
            },
            "Job completed",
        )
    ],
    "event_list": [
        Seen(
            {
                "alertname": "NodeNotReady", "severity": "info", "node": "worker-17",
                "reporting_component": "node-controller",
            },
            "Node worker-17 status is now: NodeNotReady",
        ),
        Seen(
            {
                "alertname": "Failed", "severity": "warning", "namespace": "shop",
                "object_kind": "Certificate", "object_name": "shop-tls",
                "reporting_component": "cert-manager-certificates-issuing",
            },
            "The certificate request has failed to complete",
        ),
    ],
    "event_watch": [
        Seen(
            {
                "alertname": "BackOff", "severity": "warning", "namespace": "shop", "pod": "api-1",
                "reporting_component": "kubelet",
            },
            "m",
        )
    ],
    "event_eventrouter": [
        Seen(
            {
                "alertname": "BackOff", "severity": "warning", "namespace": "shop", "pod": "api-1",
                "reporting_component": "kubelet",
            },
            "m",
        )
    ],
    "event_flux": [
        Seen(
            {
                "alertname": "ValidationFailed", "severity": "error", "namespace": "apps",
                "object_kind": "Kustomization", "object_name": "webapp",
                "reporting_component": "kustomize-controller",
            },
            "validation error",
        )
    ],
    "event_exporter_clusters": [
        Seen(
            {
                "alertname": "NodeNotReady", "severity": "warning", "node": "node-1", "cluster": cluster,
                "reporting_component": "kubelet",
            },
            "m",
        )
        for cluster in ("prod-eu", "prod-us")
    ],
    "event_recorder_created": [
        Seen(
            {"alertname": "KubePodCrashLooping", "namespace": "shop", "pod": "api-1", "severity": "critical"},
            "crash", False, "1a269034083b335f",
        )
    ],
    "event_recorder_resolved": [
        Seen(
            {"alertname": "KubePodCrashLooping", "namespace": "shop", "pod": "api-1", "severity": "critical"},
            "crash", True, "1a269034083b335f",
        )
    ],
    "prometheus_api_v1": [
        Seen({"alertname": "HighLatency", "namespace": "shop", "severity": "page"}, "p99 above 2 s")
    ],
    "webhook_without_alert_status": [
        Seen(
            {
                "alertname": "high_memory_load", "instance": "10.0.0.1:9100", "job": "docker_nodes",
                "monitor": "master", "severity": "warning",
            },
            "Server High Memory usage", True,
        )
    ],
    "cloudevent_structured": [Seen({"alertname": "KubeNodeNotReady", "node": "worker-17"}, "Node is not ready.")],
    "cloudevent_base64": [Seen({"alertname": "KubeNodeNotReady", "node": "worker-17"}, None, True)],
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(SAMPLES.iterdir()), ids=lambda path: path.stem)
def test_a_sample_of_each_format_becomes_its_alerts(path: Path) -> None:
    """The same inside a binary CloudEvent."""
    value = path.read_bytes()
    assert seen(parse(value, [], NOW)) == GOLDEN[path.stem]
    if not path.stem.startswith("cloudevent"):
        assert seen(parse(value, binary_headers, NOW)) == GOLDEN[path.stem]


def test_the_fingerprints_of_samples_are_those_of_their_labels() -> None:
    for name in ("webhook_v4", "api_v2_alerts_get"):
        for found in GOLDEN[name]:
            assert found.fingerprint == fingerprint(found.labels)


texts = st.text(max_size=6)
alerts = st.fixed_dictionaries(
    {"labels": st.dictionaries(texts.filter(bool), texts.filter(bool), max_size=4).map(ALERT["labels"].__or__)},
    optional={
        "annotations": st.dictionaries(texts, texts, max_size=3),
        "status": st.sampled_from(["firing", "resolved"]),
        "fingerprint": st.from_regex("[0-9a-f]{16}", fullmatch=True),
        "startsAt": st.just("2026-01-01T00:00:00Z"),
    },
)


@settings(deadline=None)
@given(st.lists(alerts, min_size=1, max_size=4), st.booleans())
def test_lists_webhooks_and_cloudevents_hold_the_same_alerts(sent: list[dict[str, Any]], escaped: bool) -> None:

    def encoded(value: Any) -> bytes:
        return json.dumps(value, ensure_ascii=escaped).encode()

    expected = [
        (one["labels"], one.get("annotations", {}), one.get("status") == "resolved", one.get("fingerprint"))
        for one in sent
    ]
    webhook = {"version": "4", "status": "firing", "alerts": sent}
    found = [read(encoded(one))[0] for one in sent]
    assert [
        (decode_labels(one.labels), decode_annotations(one.annotations), one.resolved, one.fingerprint)
        for one in found
    ] == expected  # fmt: skip
    for value in (sent, webhook, [webhook], [{"specversion": "1.0", "data": one} for one in sent]):
        assert seen(read(encoded(value))) == seen(found)
    for data in (sent, webhook):
        assert seen(read(encoded(data), binary_headers)) == seen(found)
        structured = {"specversion": "1.0", "data": data}
        assert seen(read(encoded(structured))) == seen(read(encoded(structured), type_headers)) == seen(found)
        in_base64 = {"specversion": "1.0", "data_base64": base64.b64encode(encoded(data)).decode()}
        assert seen(read(in_base64)) == seen(found)


def test_labels_and_annotations_keep_their_bytes() -> None:
    """Repetitions are recognized by them."""
    (found,) = read(b'{"labels" : {"b": "1",  "a":"\\u00e9"} , "annotations": {"x" :"y"}}')
    assert found.labels == b'{"b": "1",  "a":"\\u00e9"}'
    assert found.annotations == b'{"x" :"y"}'


@pytest.mark.parametrize(
    ("fields", "resolved"),
    [
        ({}, False),
        ({"status": "firing"}, False),
        ({"status": "resolved"}, True),
        ({"status": "Resolved"}, True),
        ({"state": "resolved"}, True),
        ({"state": "inactive"}, True),
        ({"state": "Alerting"}, False),
        ({"status": "firing", "state": "resolved"}, False),
        ({"status": None, "state": "ok"}, True),
        ({"status": {"state": "active"}}, False),
        ({"status": {"state": "suppressed"}}, False),
        ({"status": {"state": "unprocessed"}}, False),
        ({"status": {}, "endsAt": "2026-01-01T00:10:00Z"}, True),
        ({"status": {"state": "active"}, "endsAt": "2026-01-01T00:00:00Z"}, False),
        ({"status": "firing", "endsAt": "2026-01-01T00:00:00Z"}, False),
        ({"status": "firing", "endsAt": "whenever"}, False),
        ({"endsAt": "0001-01-01T00:00:00Z"}, False),
        ({"endsAt": ""}, False),
        ({"endsAt": None}, False),
        ({"endsAt": "2026-01-01T00:09:59.999Z"}, True),
        ({"endsAt": "2026-01-01T00:10:00Z"}, True),
        ({"endsAt": "2026-01-01T00:10:00.001Z"}, False),
        ({"endsAt": "2026-01-01T05:40:00.000000000+05:30"}, True),
        ({"endsAt": "2025-12-31T19:10:00.001-05:00"}, False),
        ({"endsAt": "1960-01-01T00:00:00Z"}, True),
        ({"endsAt": "0001-01-01T00:00:00+14:00"}, True),
        ({"endsAt": "9999-12-31T23:59:59-14:00"}, False),
    ],
)
def test_the_status_decides_then_the_state_then_the_end(fields: dict[str, Any], resolved: bool) -> None:
    (one,) = read(alert(**fields))
    assert one.resolved is resolved


@pytest.mark.parametrize("fields", [{"annotations": None}, {"fingerprint": None}, {"alerts_total": 3}])
def test_null_counts_as_absent_and_unknown_fields_are_ignored(fields: dict[str, Any]) -> None:
    assert seen(read(alert(**fields))) == [Seen({"alertname": "A"})]


@pytest.mark.parametrize(
    "given_one", ["", "abc", "3F9AC1D27B04E611", "3f9ac1d27b04e61", "3f9ac1d27b04e6111", "g" * 16, "٣" * 16]
)
def test_only_16_lower_case_hex_digits_are_a_fingerprint(given_one: str) -> None:
    assert read(alert(fingerprint=given_one))[0].fingerprint is None
    assert read(alert(fingerprint="3f9ac1d27b04e611"))[0].fingerprint == "3f9ac1d27b04e611"


def event(**fields: Any) -> dict[str, Any]:
    """An event about a pod."""
    return {
        "kind": "Event", "reason": "Killing", "involvedObject": {"kind": "Pod", "namespace": "shop", "name": "a"},
        **fields,
    }  # fmt: skip


@pytest.mark.parametrize(("label", "kind"), [pair for pair in RESOURCE_LABELS if pair[1] != "Instance"])
def test_the_label_for_the_object_of_an_event_names_the_same_resource(label: str, kind: str) -> None:
    about = {"kind": kind, "name": "x", "namespace": "shop"}
    for field in ("involvedObject", "regarding"):
        (found,) = read({field: about, "reason": "R", "type": "Warning"})
        labels = decode_labels(found.labels)
        assert labels[label] == "x"
        assert find_resource(labels, RESOURCE_LABELS) == found.about


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"type": "Urgent"}, {"severity": "Urgent"}),
        ({"source": {"component": "kubelet"}}, {"reporting_component": "kubelet"}),
        ({"deprecatedSource": {"component": "kubelet"}}, {"reporting_component": "kubelet"}),
        ({"reportingComponent": "a", "source": {"component": "b"}}, {"reporting_component": "a"}),
        ({"reason": ""}, {"alertname": None}),
        ({"involvedObject": {"kind": "Pod", "name": "a"}, "metadata": {"namespace": "m"}}, {"namespace": "m"}),
        ({"involvedObject": {"kind": "Node", "name": "a"}, "metadata": {"namespace": "default"}}, {"namespace": None}),
        ({"involvedObject": {"kind": "Alertname", "name": "a"}}, {"alertname": "Killing"}),
        ({"involvedObject": {"name": "a"}}, {"pod": None, "": None}),
    ],
)
def test_an_event_has_the_labels_of_its_fields(fields: dict[str, Any], expected: dict[str, str | None]) -> None:
    """None: there is no such label."""
    labels = decode_labels(read(event(**fields))[0].labels)
    assert {name: labels.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "no value"),
        (b"   ", "not JSON: truncated, or half of a surrogate pair"),
        (b"nonsense", "not JSON: invalid character (byte 4)"),
        (b"\xef\xbb\xbf" + json.dumps(ALERT).encode(), "not JSON: begins with a byte order mark"),
        (json.dumps(ALERT).encode("utf-16"), "not UTF-8: invalid start byte (byte 0)"),
        (b'{"labels": {"a": "\xff"}}', "not UTF-8: invalid start byte (byte 18)"),
        (b'{"labels": {"a": "b"}, "skipped": "\xff"}', "not UTF-8: invalid start byte (byte 35)"),
        (rb'{"labels": {"a": "b"}, "skipped": "\ud800"}', "not JSON: truncated, or half of a surrogate pair"),
        (b'{"labels": {"a": "b"}, "value": NaN}', "not JSON: invalid character (byte 32)"),
        (b'{"labels": {"a": "\0"}}', "not JSON: invalid character (byte 18)"),
        (json.dumps(ALERT).encode() * 2, "not JSON: trailing characters (byte 31)"),
        (b'{"labels":' + b"[" * 10_000, "nested too deeply"),
        (b'{"skipped":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested too deeply"),
        (5, "expected object | array, got int"),
        (None, "expected object | array, got null"),
        ([], "contains no alerts"),
        ([3], "[0]: expected object, got int"),
        ([[ALERT]], "[0]: expected object, got array"),
        ([ALERT, {}], f"[1]: no known format has these keys: none; {ACCEPTED}"),
        ([ALERT, alert(status="odd")], "[1].status: expected firing or resolved, got 'odd'"),
        ({}, f"no known format has these keys: none; {ACCEPTED}"),
        ({"kind": "Pod", "metadata": {}}, f"no known format has these keys: kind, metadata; {ACCEPTED}"),
        ({"labels": None, "status": "firing"}, "no labels"),
        ({"labels": [], "status": "firing"}, "labels: expected object"),
        (alert(annotations="x"), "annotations: expected object"),
        (alert(status=1), "status: expected str | object | null, got int"),
        (alert(status={"state": 1}), "status.state: expected str | null, got int"),
        (alert(status="x" * 999), f"status: expected firing or resolved, got '{'x' * 32}'"),
        (alert(endsAt=1), "endsAt: expected str | null, got int"),
        (alert(endsAt="tomorrow"), "endsAt: expected a time like 2026-01-01T00:00:00Z, got 'tomorrow'"),
        (alert(endsAt="2026-01-01T00:00:00"),
         "endsAt: expected a time like 2026-01-01T00:00:00Z, got '2026-01-01T00:00:00'"),
        (alert(fingerprint=1), "fingerprint: expected str | null, got int"),
        ({"alerts": []}, "alerts: contains no alerts"),
        ({"alerts": None}, "alerts: contains no alerts"),
        ({"alerts": {}}, "alerts: expected array | null, got object"),
        ({"alerts": [ALERT, {}]}, "alerts[1]: no labels"),
        ({"alerts": [ALERT, ALERT, {"labels": 3}]}, "alerts[2].labels: expected object"),
        ({"alerts": [ALERT, alert(status=3)]}, "alerts[1].status: expected str | object | null, got int"),
        ({"kind": "Event"}, "involvedObject: missing"),
        ({"kind": "EventList", "items": []}, "items: contains no alerts"),
        ({"kind": "EventList"}, "items: contains no alerts"),
        ({"kind": "List", "items": [event(), event(kind="Pod")]}, "items[1].kind: expected Event, got 'Pod'"),
        ({"kind": "List", "items": [event(reason=1)]}, "items[0].reason: expected str | null, got int"),
        ({"specversion": "0.3", "data": ALERT}, "specversion: expected 1.0, got '0.3'"),
        ({"specversion": 1, "data": ALERT}, "specversion: expected str, got int"),
        ({"specversion": "1.0"}, "data: missing"),
        ({"specversion": "1.0", "data": ALERT, "data_base64": ""},
         "expected one of data and data_base64, got both"),
        ({"specversion": "1.0", "data_base64": "?"}, "data_base64: not base64"),
        ({"specversion": "1.0", "data_base64": "é"}, "data_base64: not base64"),
        ({"specversion": "1.0", "data_base64": "/w=="}, "data_base64: not UTF-8: invalid start byte (byte 0)"),
        ({"specversion": "1.0", "data": json.dumps(ALERT)}, "data: expected object | array, got str"),
        ({"specversion": "1.0", "data": {"alerts": [{}]}}, "data.alerts[0]: no labels"),
        ({"specversion": "1.0", "data": {"specversion": "1.0", "data": ALERT}}, "data: a CloudEvent in a CloudEvent"),
        ({"specversion": "1.0", "data": [{"specversion": "1.0", "data": ALERT}]},
         "data[0]: a CloudEvent in a CloudEvent"),
    ],
)  # fmt: skip
def test_a_refusal_has_the_place_and_the_reason(value: Any, reason: str) -> None:
    assert refusal(value) == reason


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([alert(labels={"alertname": "A", "a": 5})], "labels.a: expected str, got int"),
        ([ALERT, alert(annotations={"a": 5})], "[1].annotations.a: expected str, got int"),
    ],
)
def test_the_contents_of_labels_and_annotations_are_checked(records: list[Any], reason: str) -> None:
    alerts = parse(json.dumps(records).encode(), [], NOW)
    with pytest.raises(Poison) as refused:
        check_contents(alerts)
    assert str(refused.value) == reason


def test_a_record_without_a_value_is_refused() -> None:
    with pytest.raises(Poison, match=r"^no value$"):
        parse(None, [], NOW)


def test_headers_decide_whether_a_value_is_a_cloudevent() -> None:
    wrapped = {"specversion": "1.0", "data": ALERT}
    batch: Headers = [("Content-Type", b"application/cloudevents-batch+json")]
    others: Headers = [("traceparent", b"\xff"), ("content-type", None), ("", b"")]
    for value, headers in (
        (wrapped, type_headers), ([wrapped], batch), (ALERT, binary_headers), (ALERT, others), (wrapped, others),
        (wrapped, [*type_headers, *others[:1], ("ce_specversion", b"1.0")]),
    ):  # fmt: skip
        assert seen(read(value, headers)) == [Seen({"alertname": "A"})]
    assert refusal(ALERT, type_headers) == "specversion: missing"
    assert refusal([wrapped, ALERT], batch) == "[1].specversion: missing"
    assert refusal([ALERT], batch) == "[0].specversion: missing"
    assert refusal(wrapped, binary_headers) == "a CloudEvent in a CloudEvent"
    assert refusal(ALERT, [("ce_specversion", b"0.3")]) == "ce_specversion: expected 1.0, got '0.3'"
    assert refusal(ALERT, [("ce_specversion", b"\xff")]) == "ce_specversion: expected 1.0, got '\ufffd'"
    assert refusal(ALERT, [("ce_specversion", None)]) == "ce_specversion: expected 1.0, got ''"


def test_a_record_of_5000_alerts_keeps_their_order_and_fails_as_a_whole() -> None:
    many = [{"labels": {"alertname": "A", "i": str(i)}} for i in range(5_000)]
    for value in (many, {"alerts": many}):
        assert [found.labels["i"] for found in seen(read(value))] == [str(i) for i in range(5_000)]
    many[4_321] = {"labels": {}, "status": "odd"}  # type: ignore[dict-item]
    assert refusal({"alerts": many}) == "alerts[4321].status: expected firing or resolved, got 'odd'"


@pytest.mark.parametrize(
    ("truncated", "left_out"), [("0", 0), ("7", 7), ("null", 0), ('"7"', 0), ("-1", 0), ("9" * 30, 0)]
)
def test_alerts_that_a_webhook_lacks_are_reported_by_its_first_alert(truncated: str, left_out: int) -> None:
    alerts = '[{"labels": {"alertname": "A"}}, {"labels": {"alertname": "B"}}]'
    found = parse(f'{{"version": "4", "truncatedAlerts": {truncated}, "alerts": {alerts}}}'.encode(), [], 0)
    assert [alert.left_out for alert in found] == [left_out, 0]
