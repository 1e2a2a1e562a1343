"""What judges a run sees every word of a storm: what it overlooks, nobody else finds."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from stormfold.config import Config, loads
from stormfold.keyed_record import Body
from stormfold.manifest import to_manifest
from stormfold.series import SeriesReader
from stormfold.storm import Aggregate
from tests.chaos.expected import Counted, storms
from tests.chaos.truth import Early, Excused, Wrong, checksum, compare_log, compare_sink
from tests.chaos.world import WINDOWS
from tests.support.pipeline import alert, record

BEGIN = 1_000_000_000_000
PODS = 2_500
CONFIG = loads(WINDOWS, "windows")


def counted(config: Config) -> Iterator[Counted]:
    """One cause with thousands of resources, the last of them resolved; and one alert that is alone."""
    reader = SeriesReader(config)
    plain = [alert("FanOut", pod=f"pod-{number}", resolved=number == PODS - 1) for number in range(PODS)]
    for number, one in enumerate([*plain, alert("Alone", pod="pod-0")]):
        time = BEGIN + number
        ((keyed, resolved),) = reader.parse(record(one), (), time)
        yield Counted(time, msgspec.msgpack.decode(keyed.body_at(time), type=Body), resolved, False)


LOG = list(counted(CONFIG))
RIGHT = storms(CONFIG, LOG)
BIG = next(storm for storm in RIGHT.values() if storm.alert_count == PODS)
ALONE = next(storm for storm in RIGHT.values() if storm.alert_count == 1)
CROWDED = [(BIG.last_seen, BIG.last_seen + 1)]


def found(said: Aggregate, crowded: list[tuple[int, int]]) -> list[Wrong]:
    """What is found wrong if a storm was published like this."""
    published = {name: [storm] for name, storm in RIGHT.items()} | {said.name: [said]}
    return list(compare_log(CONFIG, LOG, published, Early(0), crowded, Excused()))


def test_the_right_storms() -> None:
    """As the log decides: everything is told of the storm, and what is listed of it is bounded."""
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
        {"storm_class": "Isolated"},
        {"severity": "critical"},
        {"close_reason": "Slice"},
        {"late": 1},
        {"route": "another"},
        {"truncated": False},
        {"last_seen": BIG.last_seen + 1},
    ],
    ids=str,
)
def test_another_storm(change: dict[str, Any]) -> None:
    """Whatever a storm of thousands of resources says wrongly is found, in the log of storms and in the sink."""
    said = msgspec.structs.replace(BIG, **change)
    assert len(found(said, [])) == 1
    assert len(list(compare_sink("the folder", {BIG.name: [BIG]}, {BIG.name: to_manifest(said)}))) == 1
    assert not list(compare_sink("the folder", {BIG.name: [BIG]}, {BIG.name: to_manifest(BIG)}))


@pytest.mark.parametrize("change", [{"alert_count": PODS - 7}, {"alert_count": PODS + 7}], ids=str)
def test_alerts_lost_or_double(change: dict[str, Any]) -> None:
    """Alerts are counted exactly, also while Redis is full."""
    (wrong,) = found(msgspec.structs.replace(BIG, **change), CROWDED)
    assert wrong.lost + wrong.double == 7


LESS = {"distinct": 900, "resolved": 0, "resource_count": 900, "resources": BIG.resources[:900]}


def test_a_full_redis_excuses_lower_bounds() -> None:
    """A storm of a time when Redis was full may list less, and says so; of any other time it may not."""
    less = msgspec.structs.replace(BIG, **LESS)
    assert not found(less, CROWDED)
    assert found(less, [(BIG.last_seen + 1, BIG.last_seen + 2)])
    unlisted = msgspec.structs.replace(
        ALONE, distinct=0, resource_count=0, resources=(), storm_class="Storm", truncated=True
    )
    assert not found(unlisted, CROWDED)


@pytest.mark.parametrize(
    "change",
    [{"severity": "critical"}, {"distinct": PODS + 1}, {"truncated": False}, {"storm_class": "Isolated"}, {"late": 1}],
    ids=str,
)
def test_a_full_redis_excuses_nothing_else(change: dict[str, Any]) -> None:
    """The rest is exact then, too."""
    assert found(msgspec.structs.replace(BIG, **LESS | change), CROWDED)


def test_a_storm_may_be_published_twice() -> None:
    """Of two that a full Redis made of one, the sink has either."""
    less = msgspec.structs.replace(BIG, **LESS)
    published = {name: [storm] for name, storm in RIGHT.items()} | {BIG.name: [less, BIG]}
    excused = Excused()
    assert not list(compare_log(CONFIG, LOG, published, Early(0), CROWDED, excused))
    assert excused == Excused(crowded=1)
    for there in (less, BIG):
        assert not list(compare_sink("the folder", {BIG.name: [less, BIG]}, {BIG.name: to_manifest(there)}))


def test_what_alerts_say() -> None:
    """It is the same in whatever order they come, and another if one of them is another: in any respect, or place."""
    said = [(index, one.body, one.resolved) for index, one in enumerate(LOG)]
    index, body, resolved = said[7]
    assert checksum(said) == checksum(said[::-1])
    for other in (
        (index, said[8][1], resolved),
        (index, body, not resolved),
        (index, msgspec.structs.replace(body, resource=b""), resolved),
        (index, msgspec.structs.replace(body, example=b"{}"), resolved),
    ):
        assert checksum([*said[:7], other, *said[8:]]) != checksum(said)
    assert checksum([(0, body, False), (1, said[8][1], False)]) != checksum([(1, body, False), (0, said[8][1], False)])
