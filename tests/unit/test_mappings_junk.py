"""Mappings on whatever a record contains: alerts or `Poison` with a short reason, in bounded time."""

import copy
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormfold.alert import Alert
from stormfold.decoding import Poison, decode_annotations, decode_labels
from stormfold.formats.mappings import Mappings, presets
from tests.unit.test_mappings import PRESETS, RECORDS, parse_record

EXACT = settings(deadline=None, max_examples=150, print_blob=True)

keys = st.sampled_from(
    sorted(
        {key for _, record in RECORDS for key in json.dumps(record).replace("\\", "").split('"')[1::2] if len(key) < 30}
    )
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | keys
    | st.text(max_size=5)
)
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=20
)


def check(parse_one: Callable[[], list[Alert]]) -> None:
    """Fails if anything but valid alerts or a `Poison` that can be shown comes of it."""
    try:
        for alert in parse_one():
            assert all(decode_labels(alert.labels).values())
            decode_annotations(alert.annotations)
            assert alert.fingerprint is None or len(bytes.fromhex(alert.fingerprint)) == 8
    except Poison as reason:
        assert 0 < len(str(reason)) < 400
        assert str(reason).isprintable()


@EXACT
@given(junk)
def test_any_json_by_any_mapping(record: Any) -> None:
    """Whether its condition holds or not."""
    for preset in presets():
        preset.matches(record)
        check(lambda preset=preset: preset.parse(record, parse_record))  # type: ignore[misc]


@EXACT
@given(st.sampled_from(RECORDS), st.data())
def test_samples_with_a_wrong_part(sample: tuple[str, Any], data: st.DataObject) -> None:
    """One value has become something else, at any depth."""
    record = copy.deepcopy(sample[1])
    node: Any = record
    while True:
        key: Any = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        inner = node[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        node = inner
    node[key] = data.draw(junk)
    check(lambda: parse_record(json.dumps(record).encode()))
    check(lambda: PRESETS[sample[0]].parse(record, parse_record))


SIZE = 300_000
"""Bytes of the large records."""


def larger(record: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a record in which one list, object or text is large."""

    def places(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield (*path, key)
            if isinstance(node[key], dict | list):
                yield from places(node[key], (*path, key))

    for path in places(record, ()):
        large = copy.deepcopy(record)
        node = large
        for key in path[:-1]:
            node = node[key]
        value = node[path[-1]]
        if isinstance(value, list):
            item = value[0] if value else 0
            node[path[-1]] = [item] * (SIZE // (len(json.dumps(item)) + 1))
        elif isinstance(value, dict):
            node[path[-1]] = {**value, **{f"k{number}": number for number in range(SIZE // 16)}}
        elif isinstance(value, str):
            node[path[-1]] = value + "/:, " * (SIZE // 4)
        else:
            continue
        yield f"{path}", large


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_large_record_takes_bounded_time(name: str) -> None:
    """Wherever a preset's sample is made large; what is quadratic takes hours."""
    record = next(record for preset, record in RECORDS if preset == name)
    for place, large in larger(record):
        began = time.process_time()
        check(lambda large=large: PRESETS[name].parse(large, parse_record))  # type: ignore[misc]
        Mappings().find(large)
        assert time.process_time() - began < 2, place
