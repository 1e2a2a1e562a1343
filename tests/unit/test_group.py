"""Identity of groups, and the names of their aggregates."""

import re
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stormfold import group
from stormfold.group import GroupMeta
from tests.unit.strategies import metas

EXACT = settings(deadline=None, max_examples=200, print_blob=True)

GAP = 60_000

One = TypeVar("One")
Pair = tuple[One, One]


def pairs(ones: st.SearchStrategy[One]) -> st.SearchStrategy[Pair[One]]:
    """Two, often the same."""
    return ones.map(lambda one: (one, one)) | st.tuples(ones, ones)


@EXACT
@given(metas, st.integers(0, 2**53))
def test_a_name_is_a_dns_label_of_at_most_57_characters(meta: GroupMeta, start: int) -> None:
    name = group.aggregate_name(meta, start, GAP)
    assert re.fullmatch(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?", name, re.ASCII)
    assert len(name) <= 57
    assert re.fullmatch(r".{1,40}-[0-9a-f]{16}", name)


@EXACT
@given(pairs(metas), pairs(st.integers(0, 2**53)), pairs(st.integers(1, 2**53)))
def test_name_and_group_depend_on_identity_and_first_bucket_only(
    metas: Pair[GroupMeta], starts: Pair[int], gaps: Pair[int]
) -> None:
    """Namespace and thresholds may change."""
    keys = [(meta.route, meta.labels, meta.silenced) for meta in metas]
    groups = [group.group_id(*key) for key in keys]
    names = [group.aggregate_name(*one) for one in zip(metas, starts, gaps, strict=True)]
    same = keys[0] == keys[1]
    assert (groups[0] == groups[1]) == same
    assert (names[0] == names[1]) == (same and starts[0] == starts[1] and gaps[0] == gaps[1])
    assert all(len(group) == 20 for group in groups)
    other = msgspec.structs.replace(metas[0], namespace="x", storm_alerts=99, storm_resources=98)
    assert group.aggregate_name(other, starts[0], gaps[0]) == names[0]


@EXACT
@given(metas, st.randoms(use_true_random=False))
def test_the_order_of_labels_does_not_matter(meta: GroupMeta, random: Any) -> None:
    items = list(meta.labels.items())
    random.shuffle(items)
    other = msgspec.structs.replace(meta, labels=dict(items))
    assert group.aggregate_name(other, 0, GAP) == group.aggregate_name(meta, 0, GAP)
    assert group.pattern(other.labels) == group.pattern(meta.labels)


@pytest.mark.parametrize(
    ("labels", "slug"),
    [
        ({"alertname": "KubePodCrashLooping", "cluster": "prod"}, "kubepodcrashlooping"),
        ({"cluster": "prod", "app": "x"}, "app-x-cluster-prod"),
        ({}, "storm"),
        ({"alertname": "日本語"}, "storm"),
        ({"alertname": "--Disk  full!--"}, "disk-full"),
        ({"alertname": "a" * 39 + "-bc"}, "a" * 39),
        ({"alertname": "x" * 100}, "x" * 40),
    ],
)
def test_the_slug_is_readable(labels: dict[str, str], slug: str) -> None:
    meta = GroupMeta("default", labels, "storms", False, 10, 5)
    assert group.aggregate_name(meta, 0, GAP)[:-17] == slug


@pytest.mark.parametrize(
    ("labels", "pattern"),
    [
        ({"alertname": "Kube", "cluster": "prod"}, 'Kube{cluster="prod"}'),
        ({"alertname": "Kube"}, "Kube"),
        ({"b": "1", "a": "2"}, '{a="2",b="1"}'),
        ({}, "{}"),
        ({"alertname": "A", "x": 'say "hi"\\\n'}, r'A{x="say \"hi\"\\\n"}'),
    ],
)
def test_a_pattern_is_written_as_in_promql(labels: dict[str, str], pattern: str) -> None:
    assert group.pattern(labels) == pattern


@EXACT
@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.text('\\"\n,={}x', max_size=6)), min_size=2, max_size=2))
def test_values_cannot_forge_the_pattern_of_another_group(two: list[dict[str, str]]) -> None:
    assume(two[0] != two[1])
    assert group.pattern(two[0]) != group.pattern(two[1])


def test_one_overflow_group_takes_all_labels_of_a_route() -> None:
    one, other = (GroupMeta("r", {"alertname": name}, "ns", False, 10, 5) for name in "ab")
    assert group.overflow_meta(one) == group.overflow_meta(other)
    assert group.overflow_meta(one).labels == {"stormfold_overflow": "true"}
