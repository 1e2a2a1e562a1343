"""The audit of incidents finds what is missing or different, and only that."""

import msgspec
import pytest

from stormfold.correlation import Correlation, RecordPlace
from stormfold.incident import Incident
from stormfold.incident_audit import IncidentRecord, IncidentReport, StormRecord, compare_incidents
from stormfold.storm import Aggregate
from tests.support.incidents import aggregate
from tests.unit.test_correlation_histories import World

END = 10**9


def published(*storms: Aggregate, closed_before: int = END) -> list[Incident]:
    correlation = Correlation()
    for offset, storm in enumerate(storms):
        correlation.add(storm, RecordPlace(0, offset))
    return [forming.build() for forming in correlation.final(closed_before)]


def records(*storms: Aggregate, timestamp: int = 0) -> list[StormRecord]:
    return [StormRecord(RecordPlace(0, offset, timestamp), storm) for offset, storm in enumerate(storms)]


def compared(
    storms: list[StormRecord], incidents: list[Incident], closed_before: int = END, edge: int | None = None
) -> IncidentReport:
    return compare_incidents(storms, [IncidentRecord(100, one) for one in incidents], closed_before, edge)


FIRST = aggregate("first", "a", "Storm", 10, 12, alerts=5)
SECOND = aggregate("second", "a", "Storm", 15, 20, alerts=7)
OTHER = aggregate("other", "a", "Isolated", 16, 16)
LATER = aggregate("later", "a", "Storm", 60, 62)
ALL = [FIRST, SECOND, OTHER, LATER]


@pytest.mark.parametrize("seed", range(60))
def test_the_incidents_of_every_history_are_as_the_storms_give_them(seed: int) -> None:
    world = World(seed)
    world.run(150)
    storms = [
        StormRecord(RecordPlace(partition, offset, time), made)
        for partition, log in enumerate(world.storms)
        for offset, (time, made) in enumerate(log)
    ]
    incidents = [IncidentRecord(time, incident) for time, incident in world.incidents]
    report = compare_incidents(storms, incidents, world.closed_before, None)
    assert (report.matches, report.pending, report.late) == (True, 0, 0)
    assert report.same == len({incident.name for _, incident in world.incidents})


def test_a_missing_incident_is_found() -> None:
    first, later = published(*ALL)
    assert compared(records(*ALL), [first, later]).same == 2
    assert compared(records(*ALL), [first]).missing == [later.name]


@pytest.mark.parametrize("change", [{"alert_count": 1}, {"storms": ()}, {"until": 3}, {"resource_count": 9}])
def test_an_incident_with_another_content_is_found(change: dict[str, object]) -> None:
    first, later = published(*ALL)
    wrong = msgspec.structs.replace(first, **change)
    assert compared(records(*ALL), [wrong, later]).different == [first.name]


def test_a_second_content_under_one_name_is_found() -> None:
    first, later = published(*ALL)
    wrong = msgspec.structs.replace(first, alert_count=1)
    assert compared(records(*ALL), [first, later, wrong]).different == [first.name]


def test_an_incident_that_no_storm_explains_is_found() -> None:
    made = published(*ALL)
    (foreign,) = published(aggregate("foreign", "b", "Storm", 10, 12))
    assert compared(records(*ALL), [*made, foreign]).different == [foreign.name]


def test_an_incident_that_is_not_final_is_pending() -> None:
    report = compared(records(*ALL), published(FIRST, SECOND, OTHER), closed_before=50)
    assert (report.matches, report.same, report.pending) == (True, 1, 1)


def test_an_incident_that_became_final_since_the_last_commit_is_neither_missing_nor_pending() -> None:
    report = compared(records(*ALL), published(*ALL), closed_before=50)
    assert (report.matches, report.same, report.pending) == (True, 1, 0)


@pytest.mark.parametrize("late", [aggregate("late", "a", "Storm", 14, 15), aggregate("late", "a", "Storm", 24, 30)])
def test_a_storm_that_came_after_its_incident_is_late(late: Aggregate) -> None:
    """Before the end of the incident it is in none; after it, it is in one of its own."""
    found = published(FIRST, SECOND, OTHER)
    if late.first_seen > SECOND.last_seen:
        found += published(late)
    report = compare_incidents(
        [*records(FIRST, SECOND, OTHER), *records(late, timestamp=200)],
        [IncidentRecord(100 + 200 * number, incident) for number, incident in enumerate(found)],
        END,
        None,
    )
    assert (report.matches, report.same, report.late) == (True, 1, 1)


def test_storms_without_a_scope_are_counted_apart() -> None:
    off = msgspec.structs.replace(FIRST, scope=None)
    overflow = msgspec.structs.replace(SECOND, scope=None, group_labels={"stormfold_overflow": "true"})
    report = compared(records(off, overflow, LATER), published(LATER))
    assert (report.matches, report.off, report.overflow, report.same) == (True, 1, 1, 1)


def test_incidents_from_before_the_oldest_storms_are_not_compared() -> None:
    """The first storm has expired: the second alone would be another incident."""
    report = compared(records(SECOND, OTHER, LATER), published(*ALL), edge=13)
    assert (report.matches, report.same, report.expired) == (True, 1, 1)


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (IncidentReport(0, same=2), "Incidents: 2 as the storms give them."),
        (
            IncidentReport(0, same=1, pending=1, late=2, off=3, overflow=4),
            "Incidents: 1 as the storms give them. Not in them: 1 storm in incidents that are not over, 2 storms"
            " published too late for an incident, 3 storms outside of incidents by configuration, 4 storms of"
            " an overflow group.",
        ),
        (
            IncidentReport(0, same=7, missing=["a", "b", "c", "d"], different=["e"]),
            "The incidents do not match the storms: 4 missing (a, b, c, …), 1 different (e), 7 as they should be.",
        ),
    ],
)
def test_the_verdict_names_what_is_wrong_and_what_is_in_no_incident(report: IncidentReport, verdict: str) -> None:
    assert report.verdict == verdict
