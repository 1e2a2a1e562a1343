"""Decoding of labels and annotations: which are accepted, which are refused, and with which reason."""

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

names = st.text(min_size=1, max_size=8)


def refusal(raw: bytes) -> str:
    """The reason for which labels are refused."""
    with pytest.raises(Poison) as caught:
        decode_labels(raw)
    return str(caught.value)


@settings(deadline=None)
@given(st.dictionaries(names, st.text(max_size=8), max_size=6), st.booleans())
def test_labels_are_decoded_without_empty_values(labels: dict[str, str], escaped: bool) -> None:
    """Annotations keep them."""
    raw = json.dumps(labels, ensure_ascii=escaped).encode()
    kept = {name: value for name, value in labels.items() if value}
    if kept:
        assert decode_labels(raw) == kept
    else:
        assert refusal(raw) == "no labels"
    assert decode_annotations(raw) == labels


def test_of_duplicate_names_the_last_counts_and_any_character_is_kept() -> None:
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
def test_a_refusal_names_the_label_and_the_reason(raw: bytes, reason: str) -> None:
    assert refusal(raw) == reason


def test_labels_and_annotations_are_limited_in_number_and_size() -> None:

    def many(count: int) -> bytes:
        return json.dumps({f"l{i}": "x" for i in range(count)}).encode()

    def large(size: int) -> bytes:
        return b'{"a":"%b"}' % (b"x" * (size - len(b'{"a":""}')))

    assert len(decode_labels(many(MAX_LABELS))) == MAX_LABELS
    assert refusal(many(MAX_LABELS + 1)) == "labels: 257 labels, at most 256"
    assert decode_labels(large(MAX_LABELS_BYTES))
    assert refusal(large(MAX_LABELS_BYTES + 1)) == "labels: 65537 bytes, at most 65536"
    assert decode_annotations(large(MAX_ANNOTATIONS_BYTES))
    with pytest.raises(Poison, match=r"^annotations: 262145 bytes, at most 262144$"):
        decode_annotations(large(MAX_ANNOTATIONS_BYTES + 1))


def test_a_reason_stays_short_and_printable_whatever_the_label_is_called() -> None:
    """One letter may print as ten."""
    for letter in ("\n", "a", "\U000e0001"):
        reason = refusal(json.dumps({letter * 30_000: 1}).encode())
        assert len(reason) < 200 and reason.isprintable()


def test_annotations_may_be_empty_but_must_be_strings() -> None:
    assert decode_annotations(b"{}") == {}
    assert decode_annotations(b'{"summary": ""}') == {"summary": ""}
    with pytest.raises(Poison, match=r"^annotations\.value: expected str, got float$"):
        decode_annotations(b'{"value": 0.5}')


def test_a_reason_has_its_whole_place() -> None:
    inner = Poison("expected str", "pod").prefixed("labels").prefixed("[3]").prefixed("alerts")
    assert str(inner) == "alerts[3].labels.pod: expected str"
    assert str(Poison("no labels").prefixed("[3]")) == "[3]: no labels"
    assert str(Poison("no labels")) == "no labels"


def test_parse_each_names_the_first_wrong_item() -> None:

    def positive(number: int) -> int:
        if number < 0:
            raise Poison("negative", "n")
        return number

    assert parse_each(positive, [1, 2]) == [1, 2]
    with pytest.raises(Poison, match=r"^\[1\]\.n: negative$"):
        parse_each(positive, [1, -1, -2])
    with pytest.raises(Poison, match=r"^contains no alerts$"):
        parse_each(positive, [])
