"""Labels, annotations and resources: what counts, what is refused, and what is said about it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormfold.decoding import (
    MAX_ANNOTATIONS_BYTES,
    MAX_LABELS,
    MAX_LABELS_BYTES,
    Poison,
    decode_annotations,
    decode_labels,
    parse_each,
)
from stormfold.resource import CLUSTER_SCOPED, RESOURCE_LABELS, Resource, find_resource

names = st.text(min_size=1, max_size=8)


def said(raw: bytes) -> str:
    """What is said of labels that are refused."""
    with pytest.raises(Poison) as caught:
        decode_labels(raw)
    return str(caught.value)


@settings(deadline=None)
@given(st.dictionaries(names, st.text(max_size=8), max_size=6), st.booleans())
def test_labels(labels: dict[str, str], escaped: bool) -> None:
    """Any names and values, escaped or not; empty values are absent labels, and none left are none."""
    raw = json.dumps(labels, ensure_ascii=escaped).encode()
    kept = {name: value for name, value in labels.items() if value}
    if kept:
        assert decode_labels(raw) == kept
    else:
        assert said(raw) == "no labels"
    assert decode_annotations(raw) == labels


def test_awkward_labels() -> None:
    """Duplicate names: the last one counts. NUL, emoji, quotes and dots are characters like others."""
    assert decode_labels(b'{"a": "1", "a": "2"}') == {"a": "2"}
    assert decode_labels(rb'{"k8s.pod \"\u0000": "\ud83d\udd25\u0000"}') == {'k8s.pod "\0': "\U0001f525\0"}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{}", "no labels"),
        (b'{"a": ""}', "no labels"),
        (b'{"": "x"}', "labels: a label without a name"),
        (b'{"x": "y", "pod": 3}', "labels.pod: expected str, got int"),
        (b'{"pod": null}', "labels.pod: expected str, got null"),
        (b'{"app.kubernetes.io/name": {"a": "b"}}', "labels['app.kubernetes.io/name']: expected str, got object"),
        (b'{"pod": 3, "pod": "x"}', "labels[...]: expected str, got int"),
        (b'{"pod": "\xff"}', "labels.pod: not UTF-8: invalid start byte"),
        (b'{"pod": "\xed\xa0\x80"}', "labels.pod: not UTF-8: invalid continuation byte"),
        (rb'{"pod": "\ud800"}', "labels: not JSON: truncated, or half of a surrogate pair"),
        (b'{"pod": NaN}', "labels: not JSON: invalid character (byte 8)"),
        (b'["pod"]', "labels: expected object, got array"),
        (b"", "labels: not JSON: truncated, or half of a surrogate pair"),
        (b'{"pod":' + b"[" * 10_000, "labels[...]: expected str, got array"),
        (b'{"pod":' + b"1" * 10_000 + b"}", "labels.pod: number out of range"),
    ],
)
def test_labels_refused(raw: bytes, reason: str) -> None:
    """What is wrong and with which label."""
    assert said(raw) == reason


def test_bounds() -> None:
    """As many and as large labels as allowed, and one more; and the same for annotations."""

    def many(count: int) -> bytes:
        return json.dumps({f"l{i}": "x" for i in range(count)}).encode()

    def large(size: int) -> bytes:
        return b'{"a":"%b"}' % (b"x" * (size - len(b'{"a":""}')))

    assert len(decode_labels(many(MAX_LABELS))) == MAX_LABELS
    assert said(many(MAX_LABELS + 1)) == "labels: 257 labels, at most 256"
    assert decode_labels(large(MAX_LABELS_BYTES))
    assert said(large(MAX_LABELS_BYTES + 1)) == "labels: 65537 bytes, at most 65536"
    assert decode_annotations(large(MAX_ANNOTATIONS_BYTES))
    with pytest.raises(Poison, match=r"^annotations: 262145 bytes, at most 262144$"):
        decode_annotations(large(MAX_ANNOTATIONS_BYTES + 1))


def test_long_names_are_not_repeated() -> None:
    """A reason stays short and on one line, whatever the label is called; one letter may print as ten."""
    for letter in ("\n", "a", "\U000e0001"):
        reason = said(json.dumps({letter * 30_000: 1}).encode())
        assert len(reason) < 200 and reason.isprintable()


def test_annotations() -> None:
    """Empty annotations and empty values are as good as any; what is no string is refused."""
    assert decode_annotations(b"{}") == {}
    assert decode_annotations(b'{"summary": ""}') == {"summary": ""}
    with pytest.raises(Poison, match=r"^annotations\.value: expected str, got float$"):
        decode_annotations(b'{"value": 0.5}')


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
def test_resource(labels: dict[str, str], expected: str) -> None:
    """The narrowest thing that the labels name; the scrape job is none."""
    assert str(find_resource(labels, RESOURCE_LABELS)) == expected


def test_configured_resource() -> None:
    """Labels and kinds, and their order, are the caller's."""
    labels = {"host": "db1", "pod": "api-1", "namespace": "shop"}
    assert find_resource(labels, (("host", "Host"), ("pod", "Pod"))) == Resource("Host", "shop", "db1")


def test_resource_labels_go_both_ways() -> None:
    """No label and no kind stands twice, so that events can be given the label of their object's kind."""
    labels, kinds = zip(*RESOURCE_LABELS, strict=True)
    assert len(set(labels)) == len(set(kinds)) == len(RESOURCE_LABELS)
    assert set(kinds) & CLUSTER_SCOPED == {"PersistentVolume", "Node", "Instance", "Namespace"}


def test_places() -> None:
    """A reason says where, however deep it was found."""
    inner = Poison("expected str", "pod").prefixed("labels").prefixed("[3]").prefixed("alerts")
    assert str(inner) == "alerts[3].labels.pod: expected str"
    assert str(Poison("no labels").prefixed("[3]")) == "[3]: no labels"
    assert str(Poison("no labels")) == "no labels"


def test_read_each() -> None:
    """The first item that is wrong is named, and nothing at all is wrong too."""

    def positive(number: int) -> int:
        if number < 0:
            raise Poison("negative", "n")
        return number

    assert parse_each(positive, [1, 2]) == [1, 2]
    with pytest.raises(Poison, match=r"^\[1\]\.n: negative$"):
        parse_each(positive, [1, -1, -2])
    with pytest.raises(Poison, match=r"^no alerts$"):
        parse_each(positive, [])
