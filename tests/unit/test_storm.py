"""Folding of segments into aggregates, and the limits of an aggregate."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormfold import storm
from stormfold.group import GroupMeta
from stormfold.manifest import from_manifest, to_manifest
from stormfold.resource import Resource
from stormfold.storm import AffectedResource, Aggregate, BucketDetail, Example, Member
from stormfold.text import truncate
from stormfold.window import Bucket, Segment, Windows, segments
from tests.integration.model import plain, strategies
from tests.support.storms import manifest
from tests.unit.strategies import resources, texts

EXACT = settings(deadline=None, max_examples=200, print_blob=True)

words = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=1200)


def _long(characters: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Texts of every length, some longer than the whole example may be."""
    some = st.text(characters, min_size=1, max_size=20)
    return st.builds(lambda text, size: (text * size)[:size], some, st.integers(1, 1_200))


@EXACT
@given(st.dictionaries(texts, st.text(max_size=600), max_size=8), st.dictionaries(texts, words, max_size=4))
def test_the_example_is_at_most_1_kib_and_never_invents_text(
    labels: dict[str, str], annotations: dict[str, str]
) -> None:
    raw = storm.cut_example(labels, annotations)
    assert len(raw) <= 1024
    example = msgspec.json.decode(raw, type=Example)
    for shown, given_ in ((example.labels, labels), (example.annotations, annotations)):
        assert shown.keys() <= given_.keys()
        for key, value in shown.items():
            assert value == given_[key] or given_[key].startswith(value.removesuffix("…"))


@EXACT
@given(
    _long(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters='"\\')),
    _long(st.sampled_from("abc/:.-?=&")),
    st.dictionaries(texts, words, max_size=6),
)
def test_summary_and_runbook_survive_the_cut(summary: str, runbook: str, others: dict[str, str]) -> None:
    annotations = {**others, "summary": summary, "runbook_url": runbook}
    example = msgspec.json.decode(storm.cut_example({**others, "pod": "x"}, annotations), type=Example)
    for key in ("summary", "runbook_url"):
        assert key in example.annotations
        shown = example.annotations[key]
        assert shown == annotations[key] or (annotations[key].startswith(shown.removesuffix("…")) and len(shown) > 1)


def test_a_small_example_is_kept_whole() -> None:
    labels, annotations = {"pod": "a", "empty": ""}, {"summary": "It's down", "description": "…"}
    raw = storm.cut_example(labels, annotations)
    assert msgspec.json.decode(raw) == {"labels": labels, "annotations": annotations}


@EXACT
@given(st.text(max_size=300), st.integers(3, 300))
def test_truncated_text_keeps_whole_characters_within_its_size(text: str, size: int) -> None:
    """The ellipsis is there exactly if text was cut off."""
    short = truncate(text, size)
    assert len(short.encode()) <= size
    if len(text.encode()) <= size:
        assert short == text
    else:
        assert short.endswith("…")
        assert text.startswith(short[:-1])
        assert len(short.encode()) > size - 4


@EXACT
@given(
    st.lists(st.tuples(resources, st.integers(1, 9)), max_size=30),
    st.integers(0, 20),
)
def test_the_most_affected_resources_come_first_in_any_order_of_input(
    entries: list[tuple[Resource, int]], most: int
) -> None:
    shown = storm.limit_resources(entries, most)
    assert len(shown) == min(most, len(entries))
    assert [entry.alerts for entry in shown] == sorted((alerts for _, alerts in entries), reverse=True)[:most]
    assert all(len(text.encode()) <= storm.MAX_VALUE_BYTES for entry in shown for text in entry.resource)
    assert storm.limit_resources(reversed(entries), most) == shown


def test_the_list_of_resources_is_limited_in_bytes() -> None:
    for name in ("n" * 500, "é" * 3_000, "\x01" * 800):
        entries = [(Resource("Pod", name, f"{name}{i}"), 1) for i in range(1_000)]
        shown = to_manifest(_with(storm.limit_resources(entries, 1_000)))["spec"]["affectedResources"]
        assert 5 < len(shown) < 1_000
        assert len(msgspec.json.encode(shown)) <= storm.MAX_LIST_BYTES


def test_a_thousand_usual_pods_are_all_listed() -> None:
    entries = [(Resource("Pod", "payments", f"checkout-7d9f6c5b4-{i:05}"), 1) for i in range(1_000)]
    assert len(storm.limit_resources(entries, 1_000)) == 1_000


def _with(entries: tuple[AffectedResource, ...]) -> Aggregate:
    return msgspec.structs.replace(from_manifest(manifest()), resources=entries)


@EXACT
@given(st.lists(strategies.alerts(st.integers(0, 300)), min_size=1, max_size=40), strategies.windows())
def test_fold_agrees_with_the_plain_model(alerts: list[plain.Alert], windows: Windows) -> None:
    """Bucket by bucket gives the same aggregates as all alerts at once."""
    found = {}
    for _, part, details in _parts(alerts, windows):
        one = storm.fold_segment(part, details, windows.gap, 1_000)
        found[one.name] = one
    assert found == plain.storms(alerts, windows)


@pytest.mark.parametrize(
    ("firing", "resources", "silenced", "expected"),
    [
        (10, 0, False, "Storm"),
        (9, 4, False, "Isolated"),
        (1, 5, False, "Storm"),
        (0, 0, False, "Isolated"),
        (99, 99, True, "Silenced"),
    ],
)
def test_the_class_follows_from_thresholds_and_silence(
    firing: int, resources: int, silenced: bool, expected: str
) -> None:
    meta = GroupMeta("default", {}, "storms", silenced, 10, 5)
    assert storm.classify(meta, firing, resources) == expected


def test_resolved_alerts_make_no_storm() -> None:
    """A wave of resolutions is not a storm, but its resources and alerts are counted."""
    meta = GroupMeta("default", {"alertname": "A"}, "storms", False, 2, 2)
    wave = [
        plain.Alert(bytes(7) + bytes([n]), meta, 1_000 + n, resolved=True, resource=Resource("Pod", "a", str(n)))
        for n in range(50)
    ]
    one = only(wave)
    assert (one.aggregate_class, one.distinct, one.resolved, one.resource_count) == ("Isolated", 50, 50, 50)
    one = only([*wave, *(alert.__class__(alert.fingerprint, meta, 900) for alert in wave[:2])])
    assert (one.aggregate_class, one.distinct, one.resolved, one.alert_count) == ("Storm", 50, 50, 52)


def test_an_aggregate_is_truncated_if_a_bucket_or_the_list_is() -> None:
    meta = GroupMeta("default", {"alertname": "A"}, "storms", False, 2, 2)
    alerts = [plain.Alert(bytes(7) + bytes([n]), meta, 1_000, resource=Resource("Pod", "a", str(n))) for n in range(5)]
    one = only(alerts, max_resources=4)
    assert (len(one.resources), one.resource_count, one.truncated) == (4, 5, True)
    one = only(alerts, max_resources=5)
    assert (len(one.resources), one.resource_count, one.truncated) == (5, 5, False)
    assert only(alerts, truncated=True).truncated


@pytest.mark.parametrize(("listed", "alerts", "expected"), [
    (0, 4, "Isolated"),
    (0, 5, "Storm"),
    (3, 4, "Isolated"),
    (3, 5, "Storm"),
])  # fmt: skip
def test_qualifying_alerts_that_are_not_listed_count_as_distinct_ones(listed: int, alerts: int, expected: str) -> None:
    """A member was not kept because Redis was nearly full."""
    meta = GroupMeta("default", {"alertname": "A"}, "storms", False, 10, 5)
    members = {bytes([n]): Member(1, 1_000, False, True, Resource("Pod", "a", str(n))) for n in range(listed)}
    (part,) = segments([Bucket(0, alerts, 1_000, 1_000)], Windows())
    detail = BucketDetail(msgspec.msgpack.encode(meta), 0, "critical", 0, True, b"{}", members, alerts - listed)
    one = storm.fold_segment(part, [detail], Windows().gap, 1_000)
    assert (one.aggregate_class, one.alert_count, one.distinct) == (expected, alerts, listed)


@EXACT
@given(
    st.lists(st.tuples(strategies.alerts(st.integers(0, 300)), st.booleans()), min_size=1, max_size=40),
    strategies.windows(),
)
def test_no_storm_is_missed_because_alerts_are_not_listed(
    alerts: list[tuple[plain.Alert, bool]], windows: Windows
) -> None:
    # Few resources make a storm here, or many alerts.
    meta = GroupMeta("default", {"alertname": "A"}, "storms", False, 10, 2)
    # The labels decide both the fingerprint and the resource, so one fingerprint has one resource.
    resources = {alert.fingerprint: alert.resource for alert, _ in alerts}
    alerts = [
        (replace(alert, meta=meta, resource=resources[alert.fingerprint]), is_listed) for alert, is_listed in alerts
    ]
    listed = plain.buckets([alert for alert, is_listed in alerts if is_listed], windows)
    unlisted: defaultdict[tuple[str, int], Counter[bytes]] = defaultdict(Counter)
    for alert, is_listed in alerts:
        unlisted[alert.group, windows.bucket(alert.time)][alert.fingerprint] += alert.qualifies and not is_listed
    for id_, part, details in _parts([alert for alert, _ in alerts], windows):
        less = []
        for detail, bucket in zip(details, part.buckets, strict=True):
            some = listed.get((id_, bucket.start))
            rest = sum(unlisted[id_, bucket.start].values())
            less.append(detail._replace(members=some.members if some else {}, truncated=True, unlisted=rest))
        whole, cut = (storm.fold_segment(part, each, windows.gap, 1_000) for each in (details, less))
        assert cut.aggregate_class in (whole.aggregate_class, "Storm")
        assert cut.alert_count == whole.alert_count


def test_huge_group_labels_are_cut_without_changing_the_identity() -> None:
    labels = {f"l{n}": "é" * 4_000 for n in range(200)}
    meta = GroupMeta("default", labels, "storms", False, 2, 2)
    one = only([plain.Alert(bytes(8), meta, 0)])
    assert len(one.group_labels) == 64
    assert all(len(value.encode()) <= 1024 for value in one.group_labels.values())
    assert len(one.pattern.encode()) <= 2048
    assert len(msgspec.json.encode(to_manifest(one))) < 200_000
    other = msgspec.structs.replace(meta, labels={**labels, "l0": "é" * 4_000 + "x"})
    assert only([plain.Alert(bytes(8), other, 0)]).name != one.name


def only(alerts: list[plain.Alert], max_resources: int = 1_000, truncated: bool = False) -> Aggregate:
    windows = Windows()
    held: Mapping[tuple[str, int], plain.Content] = plain.buckets(alerts, windows)
    buckets = [Bucket(start, c.alerts, c.first, c.last) for (_, start), c in held.items()]
    (part,) = segments(buckets, windows)
    details = [_detail(held[alerts[0].group, b.start])._replace(truncated=truncated) for b in part.buckets]
    return storm.fold_segment(part, details, windows.gap, max_resources)


def _parts(alerts: list[plain.Alert], windows: Windows) -> Iterator[tuple[str, Segment, list[BucketDetail]]]:
    """Each group's segments, with the details of their buckets."""
    held = plain.buckets(alerts, windows)
    for id_ in {alert.group for alert in alerts}:
        buckets = [Bucket(start, c.alerts, c.first, c.last) for (g, start), c in held.items() if g == id_]
        for part in segments(buckets, windows):
            yield id_, part, [_detail(held[id_, bucket.start]) for bucket in part.buckets]


def _detail(content: plain.Content) -> BucketDetail:
    return BucketDetail(
        content.meta, content.rank, content.severity, content.late, False, content.example, content.members
    )


@pytest.mark.parametrize(
    ("firing", "resolved", "not_qualified", "lacks"),
    [(5, 0, True, True), (5, 0, False, False), (4, 0, True, False), (4, 3, True, False), (5, 3, True, True)],
)
def test_a_group_lacks_qualified_alerts_if_enough_fire_but_too_few_qualify(
    firing: int, resolved: int, not_qualified: bool, lacks: bool
) -> None:
    meta = GroupMeta("default", {"alertname": "A"}, "storms", False, 10, 5)
    alerts = [
        plain.Alert(
            bytes([number] * 8),
            meta,
            0,
            number >= firing,
            not_qualified=not_qualified,
            resource=Resource("P", "", str(number)),
        )
        for number in range(firing + resolved)
    ]
    assert storm.lacks_qualified(only(alerts), meta) is lacks
