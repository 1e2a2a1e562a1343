"""Incidents of aggregates are those of a plain batch, in any order; lists are bounded and in a total order."""

from collections.abc import Iterable
from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from stormfold.chain import incident_name
from stormfold.correlation import Added, Correlation, RecordPlace
from stormfold.incident import Incident
from stormfold.incident_manifest import encode_manifest, to_manifest
from stormfold.incident_part import Part
from stormfold.resource import Resource
from stormfold.storm import Aggregate
from tests.support.incidents import Scoped, aggregate, facts, plain

EXACT = settings(deadline=None, max_examples=300, print_blob=True)
END = 10**9
"""All begins before it."""

rules = st.fixed_dictionaries(
    {"gap": st.sampled_from((6, 9)), "max_length": st.sampled_from((9, 15, 30)), "window_gap": st.sampled_from((2, 3))}
)
aggregates = st.lists(
    st.builds(
        lambda number, scope, kind, first, length, rules: aggregate(
            f"{kind}-{number}", scope, kind, first, first + length, alerts=number + 1, **rules
        ),
        st.integers(0, 99),
        st.sampled_from("ab"),
        st.sampled_from(("Storm", "Storm", "Isolated", "Silenced")),
        st.integers(0, 80),
        st.integers(0, 12),
        rules,
    ),
    max_size=25,
    unique_by=lambda made: made.name,
)


def correlate(made: Iterable[Aggregate], **limits: int) -> Correlation:
    result = Correlation(**limits)
    for offset, one in enumerate(made):
        result.add(one, RecordPlace(0, offset))
    return result


def incidents(made: Iterable[Aggregate], **limits: int) -> list[Incident]:
    return [forming.build() for forming in correlate(made, **limits).final(END)]


@EXACT
@given(aggregates, st.randoms(use_true_random=False))
def test_incidents_are_those_of_a_plain_batch_in_any_order(made: list[Scoped], random: Random) -> None:
    found = incidents(random.sample(made, len(made)))
    assert sorted(map(facts, found)) == sorted(plain(made))
    assert [encode_manifest(incident) for incident in found] == [encode_manifest(one) for one in incidents(made)]


@EXACT
@given(aggregates, st.integers(1, 8))
def test_too_many_aggregates_are_counted_in_the_right_incident(made: list[Scoped], limit: int) -> None:
    """Above the limit names, counts, sums and times stay; the incident is marked as truncated."""
    kinds = {"gap": 6, "max_length": END, "window_gap": 2}
    made = [msgspec.structs.replace(one, scope=msgspec.structs.replace(one.scope, **kinds)) for one in made]
    whole, limited = incidents(made), correlate(made, scope_limit=limit)
    short = [forming.build() for forming in limited.final(END)]
    for one, other in zip(whole, short, strict=True):
        same = ("name", "storm_count", "alert_count", "first_seen", "last_seen", "until", "close_reason", "continues")
        assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]
        assert len(other.storms) == other.storm_count or other.truncated
    times = {(one.scope.key, one.first_seen // 2) for one in made}
    assert limited.pending <= 2 * limit + len(times)
    assert limited.needed({0: len(made)})[0] == correlate(made).needed({0: len(made)})[0]


def test_the_limit_of_all_scopes_holds() -> None:
    made = [aggregate(f"i{number}", str(number % 3), "Isolated", number // 9, number // 9) for number in range(900)]
    limited = correlate(made, limit=100)
    assert limited.pending <= 110
    limited.add(aggregate("storm", "0", "Storm", 0, 99, alerts=7), RecordPlace(1, 0))
    assert [forming.build().alert_count for forming in limited.final(END)] == [307]


def test_lists_are_bounded_and_the_incident_is_marked_as_truncated() -> None:
    """At most 200 storms, 50 other groups, 50 namespaces and 200 resources, in their order; counts are complete."""
    storms = [
        aggregate(
            f"storm-{number:03}-{'x' * 40}", "a", "Storm", number % 7, 9, alerts=number,
            resources=[Resource("Pod", f"ns-{number % 60}", f"pod-{number}"), Resource("Node", "", "node")],
        )
        for number in range(1, 301)
    ]  # fmt: skip
    others = [aggregate(f"other-{number}", "a", "Isolated", 3, 3, alerts=number) for number in range(1, 61)]
    (found,) = incidents(storms + others)
    assert [len(found.storms), len(found.other_groups), len(found.namespaces), len(found.resources)] == [
        200,
        50,
        50,
        200,
    ]
    assert (found.storm_count, found.other_group_count, found.resource_count) == (300, 60, 301)
    assert found.alert_count == sum(range(1, 301)) + sum(range(1, 61))
    assert found.truncated
    assert [(storm.first_seen, storm.name) for storm in found.storms] == sorted(
        (one.first_seen, one.name) for one in storms
    )[:200]
    assert found.resources[0].resource.kind == "Node"
    assert found.other_groups[0].alert_count == 60
    assert [entry.alerts for entry in found.namespaces] == sorted((e.alerts for e in found.namespaces), reverse=True)


def test_long_text_stays_within_the_bytes_of_each_list() -> None:
    wide = "\u0001" * 1024
    storms = [
        msgspec.structs.replace(
            aggregate(f"{number}-{wide}", "a", "Storm", 0, 9, resources=[Resource("Pod", wide + str(number), wide)]),
            pattern=wide,
        )
        for number in range(100)
    ]
    others = [msgspec.structs.replace(one, aggregate_class="Isolated", name=one.name + "-other") for one in storms]
    (found,) = incidents(storms + others)
    spec = to_manifest(found)["spec"]
    sizes = {"storms": 200_000, "otherGroups": 50_000, "namespaces": 30_000, "affectedResources": 100_000}
    for name, size in sizes.items():
        assert size / 3 < len(msgspec.json.encode(spec[name])) <= size
    assert found.truncated
    assert len(found.storms[0].pattern.encode()) <= 256


def test_the_name_has_the_values_of_the_scope() -> None:
    name = incident_name((("cluster", "EU 1"), ("region", "west")), "storm-1")
    assert name.startswith("eu-1-west-")
    assert len(name) == len("eu-1-west-") + 16
    assert incident_name((), "storm-1").startswith("incident-")
    assert len({name, incident_name((("cluster", "EU 1"),), "storm-1"), incident_name((), "storm-2")}) == 3


def test_the_severity_is_the_highest_by_the_order_that_the_storms_carry() -> None:
    """The configuration of the worker that publishes the incident does not matter."""
    ranks = {"mild": 7, "grave": 0, "other": 3}
    (found,) = incidents(aggregate(name, "a", "Storm", 0, 1, rank=rank, severity=name) for name, rank in ranks.items())
    assert (found.severity, found.scope.rank) == ("grave", 0)


def test_a_storm_that_is_read_again_is_repeated_and_an_unknown_one_is_late() -> None:
    one = Correlation()
    made = aggregate("first", "a", "Storm", 10, 20)
    assert one.add(made, RecordPlace(0, 0)) is Added.PENDING
    assert one.add(made, RecordPlace(0, 1)) is Added.REPEATED
    one.know(one.final(END)[0].build())
    assert one.add(made, RecordPlace(0, 2)) is Added.REPEATED
    assert one.add(aggregate("second", "a", "Storm", 15, 30), RecordPlace(0, 3)) is Added.LATE
    assert one.add(msgspec.structs.replace(made, scope=None), RecordPlace(0, 4)) is Added.NONE


def test_the_first_record_of_a_name_counts_where_its_partition_changed() -> None:
    """Partitions are read in any order; records of a name are in two of them after the topic got more partitions."""
    one = Correlation()
    one.add(aggregate("storm", "a", "Storm", 10, 20, alerts=5), RecordPlace(3, 0, timestamp=900))
    one.add(aggregate("storm", "b", "Storm", 10, 20, alerts=3), RecordPlace(1, 7, timestamp=400))
    (found,) = one.final(END)
    assert found.build().alert_count == 3
    assert one.needed({1: 8, 3: 1}) == {1: 7, 3: 1}


@EXACT
@given(aggregates, st.integers(0, 25))
def test_open_groups_can_be_added_without_being_kept(made: list[Scoped], closed: int) -> None:
    """`forming` with more parts returns what it would return if they were pending, and changes nothing."""
    one = correlate(made[:closed])
    before = one.pending
    for key in {scoped.scope.key for scoped in made}:
        more = [part for part in map(Part.of, made[closed:]) if part is not None and part.scope.key == key]
        together = one.forming(key, more)
        assert [found.build() for found in together] == [found.build() for found in correlate(made).forming(key)]
    assert one.pending == before
