"""Any record is alerts or `Poison` with a short reason, in bounded time."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormfold.decoding import Poison, decode_annotations, decode_labels
from stormfold.formats import parse
from tests.unit.test_formats import NOW, SAMPLES

EXACT = settings(deadline=None, max_examples=300, print_blob=True)
SOON = 10.0
"""Seconds for 10 MB on a busy machine: anything quadratic takes hours."""
SIZE = 10_000_000

samples = [path.read_bytes() for path in sorted(SAMPLES.iterdir())]
fields = st.sampled_from(
    [
        "labels", "annotations", "status", "state", "endsAt", "fingerprint", "alerts", "specversion", "data",
        "data_base64", "kind", "items", "involvedObject", "regarding", "metadata", "namespace", "name", "type",
        "reason", "message", "note", "source", "component", "pod", "alertname", "severity", "startsAt", "object",
        "event", "verb", "@timestamp", "instance", "alertCreated", "alert", "details", "commonLabels", "",
    ]
)  # fmt: skip
texts = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=5),
    st.sampled_from(["firing", "1.0", "Event", "EventList", "List", "Warning", "0001-01-01T00:00:00Z", "e30="]),
)
"""Lone surrogates too."""
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(fields | texts, inner, max_size=5),
    max_leaves=20,
)
headers = st.lists(
    st.tuples(
        st.sampled_from(["content-type", "Content-Type", "ce_specversion", "ce_id", "x"]),
        st.sampled_from([None, b"", b"1.0", b"0.3", b"\xff", b"application/json", b"application/cloudevents+json"]),
    ),
    max_size=3,
)


def understood_or_refused(value: bytes, headers: list[tuple[str, bytes | None]]) -> None:
    """Fails if anything but alerts or a `Poison` that can be shown comes of it."""
    try:
        for alert in parse(value, headers, NOW):
            assert all(decode_labels(alert.labels).values())
            decode_annotations(alert.annotations)
            assert alert.fingerprint is None or len(bytes.fromhex(alert.fingerprint)) == 8
    except Poison as reason:
        assert 0 < len(str(reason)) < 600
        assert str(reason).isprintable()
        str(reason).encode()


@EXACT
@given(st.binary(max_size=200), headers)
def test_random_bytes_are_alerts_or_poison(value: bytes, headers: list[tuple[str, bytes | None]]) -> None:
    understood_or_refused(value, headers)


@EXACT
@given(junk, headers, st.booleans())
def test_random_json_is_alerts_or_poison(value: Any, headers: list[tuple[str, bytes | None]], escaped: bool) -> None:
    """NaN and lone surrogates are written as Python writes them."""
    understood_or_refused(json.dumps(value, ensure_ascii=escaped).encode(errors="surrogatepass"), headers)


@EXACT
@given(st.sampled_from(samples), st.data())
def test_a_damaged_sample_is_alerts_or_poison(value: bytes, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(value)))
        end = data.draw(st.integers(start, min(len(value), start + 40)))
        value = value[:start] + data.draw(st.binary(max_size=6)) + value[end:]
    understood_or_refused(value, data.draw(headers))


@EXACT
@given(st.sampled_from(samples), st.data())
def test_a_sample_with_a_wrong_part_is_alerts_or_poison(value: bytes, data: st.DataObject) -> None:
    tree = json.loads(value)
    node: Any = tree
    while True:
        key: Any = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        inner = node[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        node = inner
    node[key] = data.draw(junk)
    understood_or_refused(json.dumps(tree).encode(), data.draw(headers))


def repeated(head: bytes, piece: bytes, tail: bytes = b"") -> bytes:
    """About 10 MB of the same."""
    return head + piece * (SIZE // len(piece)) + tail


@pytest.mark.parametrize(
    "value",
    [
        repeated(b"", b"\xff"),
        repeated(b"", b" "),
        repeated(b"", b"1"),
        repeated(b"", b"["),
        repeated(b"", b'{"labels":'),
        repeated(b"[", b"0,", b"0]"),
        repeated(b'{"x":"', "\U0001f525".encode(), b'"}'),
        repeated(b'{"status":', b"1", b"}"),
        repeated(b'{"labels":{"a":"b"},"status":"', b"x", b'"}'),
        repeated(b'{"labels":{"a":"b"},"fingerprint":"', b"a", b'"}'),
        repeated(b'{"labels":{"a":"b"},"endsAt":"', b"1", b'"}'),
        repeated(b'{"labels":{"a":"', b"x", b'"}}'),
        repeated(b'{"labels":{', b'"a":1,', b'"a":"b"}}'),
        repeated(b'{"labels":{"a":"b"},"annotations":{"a":"', rb"\u00e9", b'"}}'),
        repeated(b"{", b'"labels":{"a":"b"},', b'"status":3}'),
        repeated(b'{"specversion":"1.0","data_base64":"', b"AAAA", b'"}'),
        repeated(b'{"alerts":[', b'{"labels":{"a":"b"},"annotations":{"summary":"long enough"}},', b"{}]}"),
        repeated(b"[", b'{"labels":{"a":"b"},"annotations":{"summary":"long enough"}},', b"{}]"),
        repeated(b'{"kind":"List","items":[', b'{"regarding":{"kind":"Pod","name":"a"}},', b"{}]}"),
    ],
    ids=lambda value: value[:40].decode(errors="backslashreplace"),
)
def test_10_mb_are_read_in_linear_time(value: bytes) -> None:
    began = time.process_time()
    understood_or_refused(value, [])
    assert time.process_time() - began < SOON
