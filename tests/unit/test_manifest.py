"""Conversions of aggregates to manifests and back."""

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from stormfold import incident_manifest
from stormfold.decoding import Malformed
from stormfold.manifest import SCOPE_ANNOTATION, decode_manifest, from_manifest, label_value, to_manifest
from stormfold.storm import Aggregate
from tests.support import incident_manifests
from tests.support.storms import manifest
from tests.unit.strategies import aggregates, milliseconds

EXACT = settings(deadline=None, max_examples=200, print_blob=True)


@EXACT
@given(aggregates)
def test_an_aggregate_survives_its_manifest(one: Aggregate) -> None:
    """The resource holds everything of the aggregate, also after a round trip through JSON."""
    assert from_manifest(to_manifest(one)) == one
    assert from_manifest(msgspec.json.decode(msgspec.json.encode(to_manifest(one)))) == one


@EXACT
@given(aggregates)
def test_a_manifest_survives_its_aggregate(one: Aggregate) -> None:
    """A resource read and written again is the same resource."""
    resource = to_manifest(one)
    assert to_manifest(from_manifest(resource)) == resource


def test_the_manifest_of_the_example_is_exact() -> None:
    """A manifest written by hand comes out as it went in, and its times are milliseconds."""
    one = from_manifest(manifest())
    assert to_manifest(one) == manifest()
    assert (one.first_seen, one.last_seen) == (1_767_225_600_000, 1_767_225_790_412)
    assert one.affected == ("Pod/payments/api-7d9f-x2x", "Node/node-7")


@pytest.mark.parametrize("path", [("spec",), ("metadata", "name"), ("spec", "alertCount"), ("spec", "firstSeen")])
def test_a_manifest_without_a_required_part_is_refused(path: tuple[str, ...]) -> None:
    broken = manifest()
    inner: dict[str, Any] = broken
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    with pytest.raises(Malformed):
        from_manifest(broken)


@pytest.mark.parametrize(
    ("foreign", "decode"),
    [(manifest(), decode_manifest), (incident_manifests.manifest(), incident_manifest.decode_manifest)],
)
@pytest.mark.parametrize("scope", ['{"deep":' + "[" * 10_000, "{}", 1])
def test_a_manifest_with_another_scope_is_refused(
    foreign: dict[str, Any], decode: Callable[[bytes], object], scope: object
) -> None:
    """Of a storm or of an incident; also one that is nested too deeply to be decoded."""
    metadata = foreign["metadata"] | {"annotations": {SCOPE_ANNOTATION: scope}}
    with pytest.raises(Malformed):
        decode(msgspec.json.encode(foreign | {"metadata": metadata}))


@EXACT
@given(milliseconds)
def test_timestamps_sort_as_text_like_as_times(time: int) -> None:
    """RFC 3339 in UTC with exactly three digits."""
    one = msgspec.structs.replace(from_manifest(manifest()), first_seen=time, last_seen=time)
    spec = to_manifest(one)["spec"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", spec["firstSeen"])
    assert spec["firstSeen"] == spec["lastSeen"]


def test_timestamps_keep_milliseconds() -> None:
    one = msgspec.structs.replace(from_manifest(manifest()), first_seen=0, last_seen=999)
    assert to_manifest(one)["spec"]["firstSeen"] == "1970-01-01T00:00:00.000Z"
    assert to_manifest(one)["spec"]["lastSeen"] == "1970-01-01T00:00:00.999Z"


@EXACT
@given(aggregates)
def test_labels_of_a_manifest_are_valid_in_kubernetes(one: Aggregate) -> None:
    labels = to_manifest(one)["metadata"]["labels"]
    assert labels["stormfold.dev/last-seen"] == str(one.last_seen // 1000)
    for value in labels.values():
        assert re.fullmatch(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", value, re.ASCII), value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("critical", "critical"),
        ("db team", "db-team"),
        ("_x_", "x"),
        ("...", ""),
        ("a" * 62 + ".b", "a" * 62),
        ("é", ""),
        ("ok\n", "ok"),
    ],
)
def test_a_label_value_keeps_valid_characters_and_replaces_others(text: str, value: str) -> None:
    assert label_value(text) == value
