"""Fingerprints are Alertmanager's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormfold.fingerprint import fingerprint


def fnv1a_64(data: bytes) -> int:
    """FNV-1a by its definition."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, "cbf29ce484222325"),
        ({"name": "garland, briggs", "fear": "love is not enough"}, "507a62d79ee76c9a"),
    ],
)
def test_fingerprints_are_those_of_alertmanager(labels: dict[str, str], expected: str) -> None:
    """The values in the tests of Prometheus' own library."""
    assert fingerprint(labels) == expected


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=6))
def test_the_fingerprint_is_fnv_1a_of_the_sorted_labels(labels: dict[str, str]) -> None:
    """Names and values are hashed in the order of the names' bytes, in any alphabet."""
    pairs = sorted((name.encode(), value.encode()) for name, value in labels.items())
    expected = fnv1a_64(b"".join(name + b"\xff" + value + b"\xff" for name, value in pairs))
    assert fingerprint(labels) == f"{expected:016x}"
    assert fingerprint(dict(reversed(labels.items()))) == f"{expected:016x}"


def test_labels_sort_by_their_utf_8_bytes() -> None:
    """Names are sorted by UTF-8 bytes, not by UTF-16 units: U+FF5E comes before U+1F525."""
    expected = fnv1a_64("\uff5e".encode() + b"\xff1\xff" + "\U0001f525".encode() + b"\xff2\xff")
    assert fingerprint({"\U0001f525": "2", "\uff5e": "1"}) == f"{expected:016x}"
