"""Storms: identity, compact metadata and the resource, with conversions both ways."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stormfold import group, storm
from stormfold.decoding import Malformed
from stormfold.group import GroupMeta
from stormfold.manifest import from_manifest, label_value, to_manifest
from stormfold.resource import Resource
from stormfold.storm import AffectedResource, Aggregate, BucketDetail, Example, Member
from stormfold.text import truncate
from stormfold.window import Bucket, Segment, Windows, segments
from tests.integration.model import plain, strategies
from tests.support.storms import AWKWARD, manifest

GAP = 60_000

EXACT = settings(deadline=None, max_examples=200, print_blob=True)

texts = st.one_of(st.text(max_size=40), st.sampled_from(AWKWARD))
label_sets = st.dictionaries(texts, texts, max_size=6)
milliseconds = st.integers(0, 253_402_300_799_999)
"""Until the year 9999."""
resources = st.builds(Resource, kind=texts, namespace=texts, name=texts)
metas = st.builds(
    GroupMeta,
    route=texts,
    labels=label_sets,
    namespace=texts,
    silenced=st.booleans(),
    storm_alerts=st.integers(1, 5),
    storm_resources=st.integers(1, 5),
)
counts = st.integers(0, 2**63 - 1)
One = TypeVar("One")
Pair = tuple[One, One]


def pairs(ones: st.SearchStrategy[One]) -> st.SearchStrategy[Pair[One]]:
    """Two, often the same."""
    return ones.map(lambda one: (one, one)) | st.tuples(ones, ones)


metadata = st.builds(
    Aggregate,
    name=texts,
    namespace=texts,
    aggregate_class=st.sampled_from(["Storm", "Isolated", "Silenced"]),
    route=texts,
    group_labels=label_sets,
    pattern=texts,
    severity=texts,
    alert_count=counts,
    distinct=counts,
    resolved=counts,
    resource_count=counts,
    resources=st.lists(st.builds(AffectedResource, resource=resources, alerts=counts), max_size=5).map(tuple),
    example=st.builds(Example, labels=label_sets, annotations=label_sets),
    first_seen=milliseconds,
    last_seen=milliseconds,
    close_reason=st.sampled_from(["Inactivity", "Slice"]),
    late=counts,
    truncated=st.booleans(),
)


class TestConversions:
    """`to_metadata` and `from_metadata`."""

    @EXACT
    @given(metadata)
    def test_there_and_back(self, one: Aggregate) -> None:
        """The resource says everything that the metadata holds, also after a trip through JSON."""
        assert from_manifest(to_manifest(one)) == one
        assert from_manifest(msgspec.json.decode(msgspec.json.encode(to_manifest(one)))) == one

    @EXACT
    @given(metadata)
    def test_back_and_there(self, one: Aggregate) -> None:
        """A resource read and written again is the same resource."""
        resource = to_manifest(one)
        assert to_manifest(from_manifest(resource)) == resource

    def test_the_design_example(self) -> None:
        """A manifest written by hand comes out as it went in, and its times are milliseconds."""
        one = from_manifest(manifest())
        assert to_manifest(one) == manifest()
        assert (one.first_seen, one.last_seen) == (1_767_225_600_000, 1_767_225_790_412)
        assert one.affected == ("Pod/payments/api-7d9f-x2x", "Node/node-7")

    @pytest.mark.parametrize("path", [("spec",), ("metadata", "name"), ("spec", "alertCount"), ("spec", "firstSeen")])
    def test_not_a_storm(self, path: tuple[str, ...]) -> None:
        """What lacks a part is refused."""
        broken = manifest()
        inner: dict[str, Any] = broken
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        with pytest.raises(Malformed):
            from_manifest(broken)

    @EXACT
    @given(milliseconds)
    def test_timestamps(self, time: int) -> None:
        """RFC 3339 in UTC with exactly three digits: what sorts as text sorts as time."""
        one = msgspec.structs.replace(from_manifest(manifest()), first_seen=time, last_seen=time)
        spec = to_manifest(one)["spec"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", spec["firstSeen"])
        assert spec["firstSeen"] == spec["lastSeen"]

    def test_timestamps_keep_milliseconds(self) -> None:
        """Whole seconds have their zeros, and nothing is rounded."""
        one = msgspec.structs.replace(from_manifest(manifest()), first_seen=0, last_seen=999)
        assert to_manifest(one)["spec"]["firstSeen"] == "1970-01-01T00:00:00.000Z"
        assert to_manifest(one)["spec"]["lastSeen"] == "1970-01-01T00:00:00.999Z"

    @EXACT
    @given(metadata)
    def test_labels(self, one: Aggregate) -> None:
        """Whatever routes and severities are called, the labels are ones that Kubernetes takes."""
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
    def test_label_value(self, text: str, value: str) -> None:
        """What fits stays, the rest becomes dashes, and the ends are alphanumeric after cutting too."""
        assert label_value(text) == value


class TestIdentity:
    """Group and name."""

    @EXACT
    @given(metas, st.integers(0, 2**53))
    def test_name(self, meta: GroupMeta, start: int) -> None:
        """A DNS-1123 label of at most 57 characters."""
        name = group.aggregate_name(meta, start, GAP)
        assert re.fullmatch(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?", name, re.ASCII)
        assert len(name) <= 57
        assert re.fullmatch(r".{1,40}-[0-9a-f]{16}", name)

    @EXACT
    @given(pairs(metas), pairs(st.integers(0, 2**53)), pairs(st.integers(1, 2**53)))
    def test_identity(self, metas: Pair[GroupMeta], starts: Pair[int], gaps: Pair[int]) -> None:
        """Same name exactly when route, group labels, silence, and start and length of the first bucket are the same;
        the rest may change."""
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
    def test_order_of_labels(self, meta: GroupMeta, random: Any) -> None:
        """It does not matter in which order labels came."""
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
    def test_slug(self, labels: dict[str, str], slug: str) -> None:
        """People recognise the pattern in the name."""
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
    def test_pattern(self, labels: dict[str, str], pattern: str) -> None:
        """As people write it, quoted so that nothing in a value can look like another label."""
        assert group.pattern(labels) == pattern

    @EXACT
    @given(st.lists(st.dictionaries(st.sampled_from("abc"), st.text('\\"\n,={}x', max_size=6)), min_size=2, max_size=2))
    def test_patterns_differ(self, two: list[dict[str, str]]) -> None:
        """Values can't forge another group's pattern."""
        assume(two[0] != two[1])
        assert group.pattern(two[0]) != group.pattern(two[1])

    def test_overflow(self) -> None:
        """One group per route and class takes what overflows, whatever the labels were."""
        one, other = (GroupMeta("r", {"alertname": name}, "ns", False, 10, 5) for name in "ab")
        assert group.overflow_meta(one) == group.overflow_meta(other)
        assert group.overflow_meta(one).labels == {"stormfold_overflow": "true"}


words = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=1200)


def _long(characters: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Texts of every length up to more than the whole example may have."""
    some = st.text(characters, min_size=1, max_size=20)
    return st.builds(lambda text, size: (text * size)[:size], some, st.integers(1, 1_200))


class TestExample:
    """The example alert, cut to size."""

    @EXACT
    @given(st.dictionaries(texts, st.text(max_size=600), max_size=8), st.dictionaries(texts, words, max_size=4))
    def test_bound(self, labels: dict[str, str], annotations: dict[str, str]) -> None:
        """At most 1 KiB of JSON, whatever comes; what it shows is the alert's, cut at most."""
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
    def test_summary_and_runbook_survive(self, summary: str, runbook: str, others: dict[str, str]) -> None:
        """The two that people need first are there, whatever else the alert says and however long either is."""
        annotations = {**others, "summary": summary, "runbook_url": runbook}
        example = msgspec.json.decode(storm.cut_example({**others, "pod": "x"}, annotations), type=Example)
        for key in ("summary", "runbook_url"):
            assert key in example.annotations
            shown = example.annotations[key]
            assert shown == annotations[key] or (
                annotations[key].startswith(shown.removesuffix("…")) and len(shown) > 1
            )

    def test_small_ones_are_whole(self) -> None:
        """What fits is not touched."""
        labels, annotations = {"pod": "a", "empty": ""}, {"summary": "It's down", "description": "…"}
        raw = storm.cut_example(labels, annotations)
        assert msgspec.json.decode(raw) == {"labels": labels, "annotations": annotations}

    @EXACT
    @given(st.text(max_size=300), st.integers(3, 300))
    def test_cut(self, text: str, size: int) -> None:
        """Within the size in bytes, whole characters, and marked as cut exactly when it is."""
        short = truncate(text, size)
        assert len(short.encode()) <= size
        if len(text.encode()) <= size:
            assert short == text
        else:
            assert short.endswith("…")
            assert text.startswith(short[:-1])
            assert len(short.encode()) > size - 4


class TestBounded:
    """The list of resources."""

    @EXACT
    @given(
        st.lists(st.builds(AffectedResource, resource=resources, alerts=st.integers(1, 9)), max_size=30),
        st.integers(0, 20),
    )
    def test_most_affected_first(self, entries: list[AffectedResource], most: int) -> None:
        """The list has a limited number of entries, those with the most alerts, in an order independent of arrival."""
        shown = storm.limit_resources(entries, most)
        assert len(shown) == min(most, len(entries))
        assert [entry.alerts for entry in shown] == sorted((entry.alerts for entry in entries), reverse=True)[:most]
        assert storm.limit_resources(reversed(entries), most) == shown

    def test_bytes(self) -> None:
        """However long names are, and whatever JSON makes of them, the list stays within its bytes."""
        for name in ("n" * 500, "é" * 3_000, "\x01" * 800):
            entries = [AffectedResource(Resource("Pod", name, f"{name}{i}"), 1) for i in range(1_000)]
            shown = to_manifest(_with(storm.limit_resources(entries, 1_000)))["spec"]["affectedResources"]
            assert 5 < len(shown) < 1_000
            assert len(msgspec.json.encode(shown)) <= storm.MAX_LIST_BYTES

    def test_a_thousand_ordinary_pods(self) -> None:
        """The usual names leave room for the whole list."""
        entries = [AffectedResource(Resource("Pod", "payments", f"checkout-7d9f6c5b4-{i:05}"), 1) for i in range(1_000)]
        assert len(storm.limit_resources(entries, 1_000)) == 1_000


def _with(entries: tuple[AffectedResource, ...]) -> Aggregate:
    return msgspec.structs.replace(from_manifest(manifest()), resources=entries)


class TestFold:
    """Final segments become storms."""

    @EXACT
    @given(st.lists(strategies.alerts(st.integers(0, 300)), min_size=1, max_size=40), strategies.windows())
    def test_against_the_plain_model(self, alerts: list[plain.Alert], windows: Windows) -> None:
        """Bucket by bucket or all alerts at once: the same storms."""
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
    def test_classes(self, firing: int, resources: int, silenced: bool, expected: str) -> None:
        """Either limit reached makes a storm; silenced ones are never one."""
        meta = GroupMeta("default", {}, "storms", silenced, 10, 5)
        assert storm.classify(meta, firing, resources) == expected

    def test_only_firing_alerts_make_a_storm(self) -> None:
        """A wave of resolutions is not a storm, but its resources and alerts are listed."""
        meta = GroupMeta("default", {"alertname": "A"}, "storms", False, 2, 2)
        wave = [
            plain.Alert(bytes(7) + bytes([n]), meta, 1_000 + n, resolved=True, resource=Resource("Pod", "a", str(n)))
            for n in range(50)
        ]
        one = self._only(wave)
        assert (one.aggregate_class, one.distinct, one.resolved, one.resource_count) == ("Isolated", 50, 50, 50)
        one = self._only([*wave, *(alert.__class__(alert.fingerprint, meta, 900) for alert in wave[:2])])
        assert (one.aggregate_class, one.distinct, one.resolved, one.alert_count) == ("Storm", 50, 50, 52)

    def test_truncated(self) -> None:
        """A bounded list is marked as truncated, and the count next to it stays exact."""
        meta = GroupMeta("default", {"alertname": "A"}, "storms", False, 2, 2)
        alerts = [
            plain.Alert(bytes(7) + bytes([n]), meta, 1_000, resource=Resource("Pod", "a", str(n))) for n in range(5)
        ]
        one = self._only(alerts, max_resources=4)
        assert (len(one.resources), one.resource_count, one.truncated) == (4, 5, True)
        one = self._only(alerts, max_resources=5)
        assert (len(one.resources), one.resource_count, one.truncated) == (5, 5, False)
        assert self._only(alerts, truncated=True).truncated

    @pytest.mark.parametrize(("listed", "alerts", "expected"), [
        (0, 4, "Isolated"),
        (0, 5, "Storm"),
        (3, 4, "Isolated"),
        (3, 5, "Storm"),
    ])  # fmt: skip
    def test_alerts_that_are_not_listed(self, listed: int, alerts: int, expected: str) -> None:
        """Alerts counted while Redis was nearly full may have been about anything: enough of them make a storm."""
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
    def test_no_storm_is_missed_for_what_is_not_listed(
        self, alerts: list[tuple[plain.Alert, bool]], windows: Windows
    ) -> None:
        """Whichever alerts are counted without being listed, what would be a storm is one."""
        # Few resources make a storm here, or many alerts.
        meta = GroupMeta("default", {"alertname": "A"}, "storms", False, 10, 2)
        alerts = [(replace(alert, meta=meta), is_listed) for alert, is_listed in alerts]
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

    def test_huge_group_labels(self) -> None:
        """What a resource shows of its group is bounded; its identity is not touched by that."""
        labels = {f"l{n}": "é" * 4_000 for n in range(200)}
        meta = GroupMeta("default", labels, "storms", False, 2, 2)
        one = self._only([plain.Alert(bytes(8), meta, 0)])
        assert len(one.group_labels) == 64
        assert all(len(value.encode()) <= 1024 for value in one.group_labels.values())
        assert len(one.pattern.encode()) <= 2048
        assert len(msgspec.json.encode(to_manifest(one))) < 200_000
        other = msgspec.structs.replace(meta, labels={**labels, "l0": "é" * 4_000 + "x"})
        assert self._only([plain.Alert(bytes(8), other, 0)]).name != one.name

    def _only(self, alerts: list[plain.Alert], max_resources: int = 1_000, truncated: bool = False) -> Aggregate:
        windows = Windows()
        held: Mapping[tuple[str, int], plain.Content] = plain.buckets(alerts, windows)
        buckets = [Bucket(start, c.alerts, c.first, c.last) for (_, start), c in held.items()]
        (part,) = segments(buckets, windows)
        details = [_detail(held[alerts[0].group, b.start])._replace(truncated=truncated) for b in part.buckets]
        return storm.fold_segment(part, details, windows.gap, max_resources)


def _parts(alerts: list[plain.Alert], windows: Windows) -> Iterator[tuple[str, Segment, list[BucketDetail]]]:
    """Each group's segments, with what their buckets hold."""
    held = plain.buckets(alerts, windows)
    for id_ in {alert.group for alert in alerts}:
        buckets = [Bucket(start, c.alerts, c.first, c.last) for (g, start), c in held.items() if g == id_]
        for part in segments(buckets, windows):
            yield id_, part, [_detail(held[id_, bucket.start]) for bucket in part.buckets]


def _detail(content: plain.Content) -> BucketDetail:
    return BucketDetail(
        content.meta, content.rank, content.severity, content.late, False, content.example, content.members
    )
