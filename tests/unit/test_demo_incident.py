"""The incident of the demo."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest

from stormfold.config import Config, loads
from stormfold.decoding import Poison
from stormfold.formats import parse
from stormfold.local.demo import CONFIG
from stormfold.local.incident import INVALID, SCRIPT, IncidentRecord, incident
from stormfold.series import SeriesReader
from tests.support.incident import expected

START = 1_780_000_000_000


@pytest.fixture(params=[1, 2, 1000], name="records")
def _records(request: pytest.FixtureRequest) -> Sequence[IncidentRecord]:
    return incident(request.param, START)


def _format(record: IncidentRecord) -> str:
    """The format of a record."""
    value = msgspec.json.decode(record.value)
    if isinstance(value, list):
        return "list"
    if any(name.startswith("ce_") for name, _ in record.headers):
        return "CloudEvent, binary"
    found = {"alerts": "webhook", "specversion": "CloudEvent", "involvedObject": "Event", "labels": "plain"}
    return next(name for field, name in found.items() if field in value)


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert incident(7, START) == incident(7, START)
    assert incident(7, START) != incident(8, START)


def test_every_record_but_one_is_parsed_into_as_many_alerts_as_it_says(records: Sequence[IncidentRecord]) -> None:
    for record in records:
        if record.alerts:
            assert len(parse(record.value, record.headers, START)) == record.alerts
    (invalid,) = [record for record in records if not record.alerts]
    assert invalid.value == INVALID
    with pytest.raises(Poison):
        parse(invalid.value, invalid.headers, START)


def test_records_are_in_order_within_ten_seconds(records: Sequence[IncidentRecord]) -> None:
    times = [record.at for record in records]
    assert times == sorted(times) and times[0] >= 0
    assert 8 < times[-1] < 12
    assert 3_000 < sum(record.alerts for record in records) < 10_000


def test_every_format_and_thirty_namespaces_occur(records: Sequence[IncidentRecord]) -> None:
    formats = Counter(_format(record) for record in records if record.alerts)
    assert formats.keys() == {"webhook", "list", "plain", "Event", "CloudEvent", "CloudEvent, binary"}
    assert len(SCRIPT.namespaces) == len(set(SCRIPT.namespaces)) == 30
    seen = {
        alert["labels"]["namespace"]
        for record in records
        if record.alerts and _format(record) == "webhook"
        for alert in msgspec.json.decode(record.value)["alerts"]
        if alert["labels"]["alertname"] == "KubePodNotReady"
    }
    assert seen == {*SCRIPT.namespaces, "staging"}


def test_each_group_becomes_exactly_one_aggregate(records: Sequence[IncidentRecord]) -> None:
    """No silence within a group is near the gap, and no group lasts half a slice."""
    windows = loads(CONFIG, "demo").windows
    for group in expected(records).values():
        assert all(after - before < windows.gap / 2000 for before, after in pairwise(group.times))
        assert group.times[-1] - group.times[0] < windows.slice_length / 2000


def test_it_has_storms_isolated_groups_and_a_silenced_one(records: Sequence[IncidentRecord]) -> None:
    """The node and its pods are storms; alerts are resent and resolved."""
    groups = expected(records)
    classes = Counter(group.aggregate_class for group in groups.values())
    assert classes["Storm"] >= 12 and classes["Isolated"] >= 10 and classes["Silenced"] == 1
    assert groups['{cluster="eu1",node="node-7"}'].aggregate_class == "Storm"
    pods = groups['KubePodCrashLooping{cluster="eu1"}']
    assert pods.alerts > 3 * pods.distinct and pods.resolved == pods.distinct > 50
    assert groups['KubePodNotReady{cluster="staging"}'].aggregate_class == "Silenced"
    noise = sum(group.alerts for group in groups.values() if group.aggregate_class == "Isolated")
    assert 0 < noise < 100


def test_no_alert_is_about_the_exporter_that_reported_it() -> None:
    records = [record for record in incident(1, 0) if record.alerts]
    assert any(b"kube-state-metrics" in record.value for record in records)
    reader = SeriesReader(Config())
    found = [keyed for record in records for keyed, _ in reader.parse(record.value, record.headers, 0)]
    assert not any(b"kube-state-metrics" in keyed.series.resource for keyed in found)
