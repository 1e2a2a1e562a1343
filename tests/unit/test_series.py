"""Keyed alerts: everything that follows from labels, silences, and the memo."""

import json
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormfold.alert import Alert
from stormfold.config import Config
from stormfold.decoding import Poison, decode_labels
from stormfold.fingerprint import fingerprint
from stormfold.group import GroupMeta, group_id
from stormfold.keyed_record import Body, encode_alert
from stormfold.merge import LatePolicy, Merger
from stormfold.resource import find_resource
from stormfold.routing import Matcher, Route, Silence, group_labels, route_for
from stormfold.scope import IncidentRules
from stormfold.series import Keyed, SeriesReader
from stormfold.storm import cut_example
from stormfold.window import Windows
from tests.integration.model.logs import Record

EXACT = settings(deadline=None, max_examples=200, print_blob=True)

DATABASE = Route("database", (Matcher("team", "=", "db"),), ("alertname",), 3, 2, "databases")
EVERYTHING = Route("default", group_by=None)
NIGHT = Silence("night", (Matcher("env", "=~", "dev|test"),), 100, 200)
RULES = IncidentRules()
CONFIG = Config(routes=(DATABASE, EVERYTHING), silences=(NIGHT,))

names = st.sampled_from(["alertname", "team", "env", "severity", "pod", "node", "namespace", "x"])
values = st.sampled_from(["db", "dev", "prod", "critical", "warning", "none", "api-1", "", "é", "a\nb"])
label_sets = st.dictionaries(names, values, min_size=1).filter(lambda labels: any(labels.values()))


def incoming(labels: dict[str, str], annotations: dict[str, str] | None = None, given: str | None = None) -> Alert:
    return Alert(msgspec.json.encode(labels), msgspec.json.encode(annotations or {}), fingerprint=given)


def body(keyed: Keyed, time: int = 0) -> Body:
    return msgspec.msgpack.decode(keyed.body_at(time), type=Body)


def meta(keyed: Keyed, time: int = 0) -> GroupMeta:
    return msgspec.msgpack.decode(body(keyed, time).meta, type=GroupMeta)


@EXACT
@given(label_sets, st.dictionaries(names, values), st.none() | st.just("00ff00ff00ff00ff"))
def test_a_keyed_alert_agrees_with_the_functions_for_its_parts(
    labels: dict[str, str], annotations: dict[str, str], given_: str | None
) -> None:
    alert = incoming(labels, annotations, given_)
    keyed = SeriesReader(CONFIG).keyed(alert)
    seen = decode_labels(alert.labels)
    route = route_for(seen, CONFIG.routes)
    identity = given_ or fingerprint(seen)
    severity = seen.get("severity", "")
    resource = find_resource(seen, CONFIG.resource_labels)
    for time, silenced in ((99, False), (100, seen.get("env") == "dev"), (199, seen.get("env") == "dev"), (200, False)):
        group = group_labels(seen, route, RULES.by)
        assert meta(keyed, time) == GroupMeta(
            route.name, group, route.namespace, silenced, route.storm_alerts, route.storm_resources, RULES
        )
        rank = CONFIG.severities.index(severity if severity in CONFIG.severities else "warning")
        assert body(keyed, time) == Body(
            fingerprint=bytes.fromhex(identity),
            group=group_id(route.name, group, silenced),
            meta=body(keyed, time).meta,
            rank=rank,
            severity=CONFIG.severities[rank],
            resource=msgspec.msgpack.encode(resource) if resource else b"",
            example=cut_example(seen, annotations),
        )
    assert keyed.key == identity.encode()
    assert keyed.number == int(identity, 16)


@EXACT
@given(
    st.dictionaries(st.text(min_size=1, max_size=10), st.text(min_size=1, max_size=300), min_size=1, max_size=5),
    st.dictionaries(st.text(max_size=10), st.text(max_size=300), max_size=5),
    st.sampled_from([99, 100]),
)
def test_fold_accepts_every_record_of_intake(labels: dict[str, str], annotations: dict[str, str], time: int) -> None:
    """A record that fold refuses would be lost."""
    keyed = SeriesReader(CONFIG).keyed(incoming({**labels, "env": "dev", "pod": "é"}, annotations))
    value = encode_alert(keyed.body_at(time), time=time, resolved=False, late=False, partition=0, offset=0, index=0)
    merged = Merger(Windows()).merge({0: [Record(0, value)]}, {}, LatePolicy())
    assert (merged.alerts, merged.invalid) == (1, 0)


@EXACT
@given(st.lists(st.tuples(label_sets, st.dictionaries(names, values, max_size=1)), min_size=1, max_size=20))
def test_the_memo_does_not_change_the_result(alerts: list[tuple[dict[str, str], dict[str, str]]]) -> None:
    reader = SeriesReader(CONFIG)
    for labels, annotations in alerts * 2:
        alert = incoming(labels, annotations)
        assert reader.keyed(alert) == SeriesReader(CONFIG).keyed(alert)


def test_the_memo_is_limited_in_size(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = SeriesReader(CONFIG)
    first = reader.keyed(incoming({"x": "0"}))
    monkeypatch.setattr("stormfold.series.MEMO_BYTES", 3 * reader._held)
    kept = []
    for number in range(20):
        reader.keyed(incoming({"x": str(number)}, {"y": str(number)}))
        kept.append(len(reader._keyed))
    assert 1 < max(kept) <= 3
    reader.keyed(incoming({"x": "0" * 10_000}))
    assert len(reader._keyed) == 1
    assert reader.keyed(incoming({"x": "0"})) == first


def test_the_order_of_labels_changes_only_the_example() -> None:
    reader = SeriesReader(CONFIG)
    one = body(reader.keyed(incoming({"team": "db", "alertname": "A", "pod": "p"})))
    other = body(reader.keyed(incoming({"pod": "p", "alertname": "A", "team": "db"})))
    assert msgspec.structs.replace(one, example=b"") == msgspec.structs.replace(other, example=b"")


def test_a_given_fingerprint_distinguishes_alerts_with_equal_labels() -> None:
    labels, given_ = {"x": "1"}, "0123456789abcdef"
    for first, second in ((None, given_), (given_, None)):
        reader = SeriesReader(CONFIG)
        keys = [reader.keyed(incoming(labels, given=one)).key for one in (first, second)]
        assert keys == [(one or fingerprint(labels)).encode() for one in (first, second)]


@pytest.mark.parametrize(("starts", "ends", "active"), [
    (None, None, {0, 99, 100, 199, 200}),
    (100, None, {100, 199, 200}),
    (None, 200, {0, 99, 100, 199}),
    (100, 200, {100, 199}),
])  # fmt: skip
def test_a_silence_applies_by_event_time(starts: int | None, ends: int | None, active: set[int]) -> None:
    config = replace(CONFIG, silences=(Silence("s", (Matcher("x", "!=", "2"),), starts, ends),))
    reader = SeriesReader(config)
    silenced = reader.keyed(incoming({"x": "1"}))
    assert {time for time in (0, 99, 100, 199, 200) if meta(silenced, time).silenced} == active
    assert not any(meta(reader.keyed(incoming({"x": "2"})), time).silenced for time in (0, 100, 200))


def test_one_of_several_silences_is_enough_if_all_its_matchers_match() -> None:
    two = (Matcher("x", "=", "1"), Matcher("y", "=", "1"))
    config = replace(CONFIG, silences=(Silence("a", two, 0, 10), Silence("b", two[:1], 20, 30)))
    reader = SeriesReader(config)
    both, one = reader.keyed(incoming({"x": "1", "y": "1"})), reader.keyed(incoming({"x": "1"}))
    assert [meta(both, time).silenced for time in (5, 15, 25)] == [True, False, True]
    assert [meta(one, time).silenced for time in (5, 15, 25)] == [False, False, True]


class TestRecords:
    """A record is parsed as a whole or refused."""

    def test_alerts_of_a_record_keep_order_status_and_repetitions(self) -> None:
        alerts = [
            {"labels": {"alertname": str(n)}, "status": status} for n, status in enumerate(("firing", "resolved"))
        ]
        found = SeriesReader(CONFIG).parse(json.dumps([*alerts, alerts[0]]).encode(), [], 0)
        assert [alert.resolved for _, alert in found] == [False, True, False]
        assert [keyed.key.decode() for keyed, _ in found] == [fingerprint({"alertname": n}) for n in ("0", "1", "0")]

    @pytest.mark.parametrize(
        "bad", [{"labels": {}}, {"labels": {"alertname": 1}}, {"labels": {"x": "1"}, "annotations": {"y": 2}}]
    )
    def test_one_bad_alert_makes_the_record_poison(self, bad: dict[str, object]) -> None:
        """Even if the others are known."""
        reader = SeriesReader(CONFIG)
        good = {"labels": {"alertname": "1"}}
        reader.parse(json.dumps(good).encode(), [], 0)
        for record in ([good, bad], [bad, good], bad):
            with pytest.raises(Poison):
                reader.parse(json.dumps(record).encode(), [], 0)
        assert len(reader.parse(json.dumps([good, good]).encode(), [], 0)) == 2

    def test_the_reason_names_the_index_of_the_alert(self) -> None:
        record = json.dumps([{"labels": {"alertname": "1"}}, {"labels": {"alertname": 7}}]).encode()
        with pytest.raises(Poison, match=r"^\[1\]\.labels"):
            SeriesReader(CONFIG).parse(record, [], 0)


@pytest.mark.parametrize(
    ("route", "severity", "starts_at", "qualifies"),
    [
        (Route("default"), "critical", None, True),
        (Route("default"), "WARN", 100_000, True),
        (Route("default"), "info", None, False),
        (Route("default"), "bananas", None, True),
        (Route("default"), "", None, True),
        (Route("default"), "critical", 99_999, False),
        (Route("default"), "critical", 2_000_000, True),
        (Route("default", new_for=None), "critical", 0, True),
        (Route("default", storm_severity="critical"), "error", None, False),
        (Route("default", storm_severity="none"), "info", None, True),
    ],
)
def test_only_severe_and_new_alerts_count_towards_a_storm(
    route: Route, severity: str, starts_at: int | None, qualifies: bool
) -> None:
    keyed = SeriesReader(Config(routes=(route,))).keyed(incoming({"alertname": "A", "severity": severity}))
    assert keyed.qualifies(starts_at, 1_000_000) is qualifies


def test_an_incident_that_stormfold_announced_is_silenced_when_it_comes_back() -> None:
    """With any configuration: it must not become a storm of storms."""
    reader = SeriesReader(Config())
    announced = {"alertname": "AlertIncident", "cluster": "eu1", "stormfold": "incident", "severity": "critical"}
    assert meta(reader.keyed(incoming(announced)), 5).silenced
    assert not meta(reader.keyed(incoming(announced | {"stormfold": "other"})), 5).silenced
