"""The verification of a run detects a difference in any field of an aggregate."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from stormfold.config import Config, loads
from stormfold.correlation import incidents_of
from stormfold.incident_manifest import encode_manifest
from stormfold.keyed_record import Body
from stormfold.manifest import to_manifest
from stormfold.series import SeriesReader
from stormfold.storm import Aggregate
from tests.chaos.compare import Early, Excused, Wrong, compare_log, compare_sink
from tests.chaos.expected import Counted, expected_aggregates
from tests.chaos.incidents import compare as compare_incidents
from tests.chaos.truth import checksum
from tests.chaos.world import WINDOWS
from tests.support.alerts import alert, record
from tests.support.incidents import aggregate

BEGIN = 1_000_000_000_000
PODS = 2_500
CONFIG = loads(WINDOWS, "windows")


def counted(config: Config) -> Iterator[Counted]:
    """Yields alerts of one cause about thousands of resources, the last one resolved, and one isolated alert."""
    reader = SeriesReader(config)
    plain = [alert("FanOut", pod=f"pod-{number}", resolved=number == PODS - 1) for number in range(PODS)]
    for number, one in enumerate([*plain, alert("Alone", pod="pod-0")]):
        time = BEGIN + number
        ((keyed, parsed),) = reader.parse(record(one), (), time)
        yield Counted(time, msgspec.msgpack.decode(keyed.body_at(time), type=Body), parsed.resolved, False)


LOG = list(counted(CONFIG))
RIGHT = expected_aggregates(CONFIG, LOG)
BIG = next(storm for storm in RIGHT.values() if storm.alert_count == PODS)
ALONE = next(storm for storm in RIGHT.values() if storm.alert_count == 1)
FULL = [(BIG.last_seen, BIG.last_seen + 1)]


def found(found_alerts: Aggregate, full: list[tuple[int, int]]) -> list[Wrong]:
    """Returns the errors that are found if this aggregate was published."""
    published = {name: [storm] for name, storm in RIGHT.items()} | {found_alerts.name: [found_alerts]}
    return list(compare_log(CONFIG, LOG, published, Early(0), full, Excused()))


def test_the_expected_aggregates_have_exact_counts_and_bounded_lists() -> None:
    assert (BIG.distinct, BIG.resolved, BIG.resource_count, len(BIG.resources)) == (PODS, 1, PODS, 1_000)
    assert BIG.truncated and BIG.aggregate_class == "Storm" and ALONE.aggregate_class == "Isolated"
    assert not found(BIG, [])


@pytest.mark.parametrize(
    "change",
    [
        {"distinct": 0, "resources": ()},
        {"distinct": PODS - 1},
        {"resolved": 0},
        {"resource_count": PODS - 1},
        {"resources": BIG.resources[:-1]},
        {"resources": BIG.resources[::-1]},
        {"aggregate_class": "Isolated"},
        {"severity": "critical"},
        {"close_reason": "Slice"},
        {"late": 1},
        {"route": "another"},
        {"truncated": False},
        {"last_seen": BIG.last_seen + 1},
    ],
    ids=str,
)
def test_a_difference_in_any_field_is_found_in_the_topic_and_in_the_sink(change: dict[str, Any]) -> None:
    found_alerts = msgspec.structs.replace(BIG, **change)
    assert len(found(found_alerts, [])) == 1
    assert len(list(compare_sink("the folder", {BIG.name: [BIG]}, {BIG.name: to_manifest(found_alerts)}))) == 1
    assert not list(compare_sink("the folder", {BIG.name: [BIG]}, {BIG.name: to_manifest(BIG)}))


@pytest.mark.parametrize("change", [{"alert_count": PODS - 7}, {"alert_count": PODS + 7}], ids=str)
def test_lost_and_duplicate_alerts_are_errors_even_while_redis_is_full(change: dict[str, Any]) -> None:
    (wrong,) = found(msgspec.structs.replace(BIG, **change), FULL)
    assert wrong.lost + wrong.double == 7


LESS = {"distinct": 900, "resolved": 0, "resource_count": 900, "resources": BIG.resources[:900]}


def test_a_full_redis_excuses_lower_bounds() -> None:
    """A truncated aggregate of a time when Redis was full may list less; one of another time must not."""
    less = msgspec.structs.replace(BIG, **LESS)
    assert not found(less, FULL)
    assert found(less, [(BIG.last_seen + 1, BIG.last_seen + 2)])
    unlisted = msgspec.structs.replace(
        ALONE, distinct=0, resource_count=0, resources=(), aggregate_class="Storm", truncated=True
    )
    assert not found(unlisted, FULL)


@pytest.mark.parametrize(
    "change",
    [
        {"severity": "critical"},
        {"distinct": PODS + 1},
        {"truncated": False},
        {"aggregate_class": "Isolated"},
        {"late": 1},
    ],
    ids=str,
)
def test_a_full_redis_excuses_nothing_else(change: dict[str, Any]) -> None:
    assert found(msgspec.structs.replace(BIG, **LESS | change), FULL)


def test_an_aggregate_published_twice_with_less_detail_may_be_in_the_sink_in_either_form() -> None:
    """This happens only while Redis is full."""
    less = msgspec.structs.replace(BIG, **LESS)
    published = {name: [storm] for name, storm in RIGHT.items()} | {BIG.name: [less, BIG]}
    excused = Excused()
    assert not list(compare_log(CONFIG, LOG, published, Early(0), FULL, excused))
    assert excused == Excused(truncated=1)
    for there in (less, BIG):
        assert not list(compare_sink("the folder", {BIG.name: [less, BIG]}, {BIG.name: to_manifest(there)}))


def test_a_checksum_depends_on_every_field_and_place_of_the_alerts_and_not_on_their_order() -> None:
    found_alerts = [(index, one.body, one.resolved) for index, one in enumerate(LOG)]
    index, body, resolved = found_alerts[7]
    assert checksum(found_alerts) == checksum(found_alerts[::-1])
    for other in (
        (index, found_alerts[8][1], resolved),
        (index, body, not resolved),
        (index, msgspec.structs.replace(body, resource=b""), resolved),
        (index, msgspec.structs.replace(body, example=b"{}"), resolved),
    ):
        assert checksum([*found_alerts[:7], other, *found_alerts[8:]]) != checksum(found_alerts)
    assert checksum([(0, body, False), (1, found_alerts[8][1], False)]) != checksum(
        [(1, body, False), (0, found_alerts[8][1], False)]
    )


INCIDENT_STORMS: list[Aggregate] = [
    aggregate(f"storm-{number}", "a", "Storm", 3 * number, 3 * number + 1) for number in range(30)
]
INCIDENTS = [encode_manifest(one) for one in incidents_of(INCIDENT_STORMS)]


def test_incidents_that_the_storms_give_are_right() -> None:
    assert len(INCIDENTS) > 2
    assert not list(compare_incidents(INCIDENT_STORMS, [*INCIDENTS, INCIDENTS[0]]))


@pytest.mark.parametrize(
    "published",
    [
        INCIDENTS[1:],
        [*INCIDENTS, INCIDENTS[0].replace(b'"alertCount":', b'"alertCount":1')],
        [INCIDENTS[0].replace(b'"MaxDuration"', b'"Quiet"'), *INCIDENTS[1:]],
        [*INCIDENTS, encode_manifest(incidents_of([aggregate("other", "b", "Storm", 1, 2)])[0])],
    ],
    ids=["missing", "two contents", "different", "not explained"],
)
def test_an_incident_that_the_storms_do_not_give_is_detected(published: list[bytes]) -> None:
    (wrong,) = compare_incidents(INCIDENT_STORMS, published)
    assert wrong.incidents == 1
