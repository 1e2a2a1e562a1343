"""The demo's incident: the same for a seed, understood by the parsers, and as varied as it claims."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest

from stormfold.config import loads
from stormfold.decoding import Poison
from stormfold.formats import parse
from stormfold.local.demo import CONFIG
from stormfold.local.incident import GARBAGE, NAMESPACES, IncidentRecord, incident
from tests.integration.local.expected import expected

START = 1_780_000_000_000


@pytest.fixture(params=[1, 2, 1000], name="records")
def _records(request: pytest.FixtureRequest) -> Sequence[IncidentRecord]:
    return incident(request.param, START)


def _shape(told: IncidentRecord) -> str:
    """Which format a record is in."""
    value = msgspec.json.decode(told.value)
    if isinstance(value, list):
        return "list"
    if any(name.startswith("ce_") for name, _ in told.headers):
        return "CloudEvent, binary"
    found = {"alerts": "webhook", "specversion": "CloudEvent", "involvedObject": "Event", "labels": "plain"}
    return next(name for field, name in found.items() if field in value)


def test_a_seed_decides_everything() -> None:
    """The same seed tells the same, byte for byte; another one tells something else."""
    assert incident(7, START) == incident(7, START)
    assert incident(7, START) != incident(8, START)


def test_all_but_the_garbage_is_understood(records: Sequence[IncidentRecord]) -> None:
    """Every record is as many alerts as it says; one is nobody's."""
    for told in records:
        if told.alerts:
            assert len(parse(told.value, told.headers, START)) == told.alerts
    (garbage,) = [told for told in records if not told.alerts]
    assert garbage.value == GARBAGE
    with pytest.raises(Poison):
        parse(garbage.value, garbage.headers, START)


def test_it_is_told_in_order_within_seconds(records: Sequence[IncidentRecord]) -> None:
    """Several thousand alerts in the order of their times, over some ten seconds."""
    times = [told.at for told in records]
    assert times == sorted(times) and times[0] >= 0
    assert 8 < times[-1] < 12
    assert 3_000 < sum(told.alerts for told in records) < 10_000


def test_all_formats_and_namespaces_take_part(records: Sequence[IncidentRecord]) -> None:
    """Webhooks, lists, plain alerts, Events, both kinds of CloudEvents; pods in thirty namespaces."""
    shapes = Counter(_shape(told) for told in records if told.alerts)
    assert shapes.keys() == {"webhook", "list", "plain", "Event", "CloudEvent", "CloudEvent, binary"}
    assert len(NAMESPACES) == len(set(NAMESPACES)) == 30
    seen = {
        alert["labels"]["namespace"]
        for told in records
        if told.alerts and _shape(told) == "webhook"
        for alert in msgspec.json.decode(told.value)["alerts"]
        if alert["labels"]["alertname"] == "KubePodNotReady"
    }
    assert seen == {*NAMESPACES, "staging"}


def test_groups_neither_fall_apart_nor_run_together(records: Sequence[IncidentRecord]) -> None:
    """No silence in a group comes near the gap, and none lasts half a slice: one storm each, whenever it is told."""
    windows = loads(CONFIG, "demo").windows
    for group in expected(records).values():
        assert all(after - before < windows.gap / 2000 for before, after in pairwise(group.times))
        assert group.times[-1] - group.times[0] < windows.slice_length / 2000


def test_it_has_storms_and_noise(records: Sequence[IncidentRecord]) -> None:
    """The node is a storm, and so are its pods; alerts are resent and resolved; noise and staging are no storms."""
    groups = expected(records)
    classes = Counter(group.storm_class for group in groups.values())
    assert classes["Storm"] >= 12 and classes["Isolated"] >= 10 and classes["Silenced"] == 1
    assert groups['{node="worker-7"}'].storm_class == "Storm"
    pods = groups['KubePodCrashLooping{cluster="eu1"}']
    assert pods.alerts > 3 * pods.distinct and pods.resolved == pods.distinct > 50
    assert groups['KubePodNotReady{cluster="staging"}'].storm_class == "Silenced"
    noise = sum(group.alerts for group in groups.values() if group.storm_class == "Isolated")
    assert 0 < noise < 100
