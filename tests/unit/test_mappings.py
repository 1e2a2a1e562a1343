"""Mappings: the samples of every preset, and what is wrong with a mapping or a record."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stormfold.alert import Alert
from stormfold.config import dump, loads
from stormfold.decoding import Poison, decode_annotations, decode_labels
from stormfold.formats import mappings, parse
from stormfold.formats.expression import EVALUATION_ERRORS, Expression, is_true, to_start, to_text
from stormfold.formats.mappings import AlertMapping, Mappings, from_document, presets, to_document
from stormfold.series import SeriesReader
from stormfold.times import format_timestamp
from tests.docs import ROOT
from tests.unit.test_formats import SAMPLES as BUILT_IN

SAMPLES = Path(__file__).parent / "testdata" / "mappings"
NOW = 1_767_226_200_000
"""2026-01-01T00:10:00Z, the time of every sample's record."""
UNUSABLE: list[Any] = [0, -1, "soon", "", None, [], "nan", "1e400", 10**400]
PRESETS = {mapping.name: mapping for mapping in presets()}
CASES: list[tuple[str, dict[str, Any]]] = [
    (path.stem, case) for path in sorted(SAMPLES.glob("*.yaml")) for case in yaml.safe_load(path.read_text())
]
"""Preset, and a sample with the alerts that it must become."""
RECORDS = [(preset, case["record"]) for preset, case in CASES]
EXACT = settings(deadline=None, max_examples=300, print_blob=True)


def parse_record(value: bytes) -> list[Alert]:
    """Parses a record without headers."""
    return parse(value, [], NOW)


def alerts_of(value: bytes) -> list[dict[str, Any]]:
    """The alerts of a record, as the samples have them."""
    return [
        {
            "labels": decode_labels(alert.labels),
            "annotations": decode_annotations(alert.annotations),
            "resolved": alert.resolved,
            "fingerprint": alert.fingerprint,
            "startsAt": None if alert.starts_at is None else format_timestamp(alert.starts_at),
            "mapping": alert.mapping,
        }
        for alert in parse_record(value)
    ]


def mapping(**keys: Any) -> AlertMapping:
    """A mapping of every object with a name."""
    return from_document({"name": "mine", "when": "name", "labels": {"alertname": "name"}, **keys})


def only(mapping: AlertMapping, record: Any) -> dict[str, str]:
    """The labels of the only alert."""
    (alert,) = mapping.parse(record, parse_record)
    return decode_labels(alert.labels)


def refusal(mapping: AlertMapping, record: Any) -> str:
    """The reason why a mapping refuses a record."""
    with pytest.raises(Poison) as caught:
        mapping.parse(record, parse_record)
    return str(caught.value)


@pytest.mark.parametrize(("preset", "case"), CASES, ids=[f"{preset}: {case['sample']}" for preset, case in CASES])
def test_a_sample_becomes_exactly_its_alerts(preset: str, case: dict[str, Any]) -> None:
    """Nothing more, nothing less, by the mapping that the sample is of."""
    alerts = alerts_of(json.dumps(case["record"]).encode())
    assert alerts == case["alerts"]
    assert all(alert["mapping"].split(", ")[0] == preset for alert in alerts)


def test_every_preset_has_two_samples_with_alerts_that_differ() -> None:
    """Firing and resolved, or another severity or object."""
    for name in PRESETS:
        seen = [json.dumps(alert) for preset, case in CASES if preset == name for alert in case["alerts"]]
        assert len(set(seen)) >= 2, name
    assert {path.stem for path in SAMPLES.iterdir()} == set(PRESETS)


def test_a_resolved_record_is_about_the_alert_that_fired() -> None:
    """It has the labels and the fingerprint of a firing sample."""
    for name in PRESETS:
        alerts = [
            alert for preset, record in RECORDS if preset == name for alert in alerts_of(json.dumps(record).encode())
        ]
        fired = [(alert["labels"], alert["fingerprint"]) for alert in alerts if not alert["resolved"]]
        for alert in alerts:
            if alert["resolved"] and name != "sns":
                assert (alert["labels"], alert["fingerprint"]) in fired, name


def test_every_alert_has_what_people_group_by() -> None:
    """A name, and a severity of the default order."""
    for _, record in RECORDS:
        for alert in alerts_of(json.dumps(record).encode()):
            assert alert["labels"]["alertname"]
            assert alert["labels"]["severity"] in ("critical", "error", "warning", "info")


def test_a_sample_matches_one_preset_only() -> None:
    """The order of the presets does not matter."""
    for name, record in RECORDS:
        assert [preset.name for preset in presets() if preset.matches(record)] == [name]


@pytest.mark.parametrize("path", sorted(BUILT_IN.iterdir()), ids=lambda path: path.stem)
def test_no_preset_matches_a_built_in_format(path: Path) -> None:
    """The built-in formats come first, but should not have to."""
    record = json.loads(path.read_bytes())
    for item in record if isinstance(record, list) else [record]:
        assert Mappings().find(item) is None


@EXACT
@given(st.sampled_from(RECORDS), st.data())
def test_fields_that_a_condition_requires_are_really_required(sample: tuple[str, Any], data: st.DataObject) -> None:
    """A mapping is left out early only where its condition would not hold."""
    record = dict(sample[1])
    for key in data.draw(st.lists(st.sampled_from(sorted(record)), max_size=3)):
        record.pop(key, None)
    for preset in presets():
        try:
            holds = is_true(preset.when(record))
        except EVALUATION_ERRORS:
            holds = False
        assert holds == preset.matches(record)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", ""), ("x", "x"), (" x ", " x "), (None, ""), ([], ""), ({}, ""), (True, "true"), (False, "false"),
        (0, "0"), (3, "3"), (2.0, "2"), (-0.5, "-0.5"), (1e300, "1e300"), (10**20, "1" + "0" * 20),
        (["a", 1], '["a",1]'), ({"a": None}, '{"a":null}'),
    ],
)  # fmt: skip
def test_values_become_texts(value: Any, text: str) -> None:
    """As a person would write them in a label."""
    assert to_text(value) == text


@pytest.mark.parametrize(
    ("value", "start"),
    [
        ("2026-01-01T00:10:00Z", NOW),
        ("2026-01-01T01:10:00.000+0100", NOW),
        ("2026-01-01T00:10:00.746609046Z", NOW + 746),
        (NOW // 1000, NOW),
        (NOW / 1000 + 0.5678, NOW + 567),
        (NOW, NOW),
        (str(NOW), NOW),
        (NOW * 1000, NOW),
        (str(NOW * 1_000_000), NOW),
        ("2026-01-01T00:10:00", None),
        ("0001-01-01T00:00:00Z", None),
        *((unusable, None) for unusable in UNUSABLE),
    ],
)
def test_starts(value: Any, start: int | None) -> None:
    """RFC 3339 and every unit of the Unix epoch; anything else is absent."""
    assert to_start(value) == start


def test_a_label_of_its_own_name_wins_over_all_labels_unless_it_is_empty() -> None:
    """So that a producer's own labels cannot hide the alert's name."""
    both = mapping(labels={"...": "labels", "alertname": "name", "service": "missing"})
    record = {"name": "A", "labels": {"alertname": "B", "service": "shop", "empty": None, "count": 1.0}}
    assert only(both, record) == {"alertname": "A", "service": "shop", "count": "1"}
    assert only(both, {"name": "A", "labels": "text"}) == {"alertname": "A"}


def test_a_label_whose_condition_does_not_hold_is_absent() -> None:
    """`a == 'x' && b` is false then, which is not a value; a field that is false is one among all labels."""
    both = mapping(labels={"...": "labels", "alertname": "name", "cluster": "name == 'B' && 'b'", "zero": "`0`"})
    assert only(both, {"name": "A", "labels": {"canary": False}}) == {"alertname": "A", "canary": "false", "zero": "0"}


def test_an_item_sees_the_small_fields_around_it() -> None:
    """Under `parent`, the innermost first."""
    nested = mapping(
        each=["outer", "inner"],
        labels={"alertname": "n", "a": "parent.a", "b": "parent.b", "big": "parent.big", "list": "parent.inner"},
    )
    record = {
        "name": 1,
        "a": "record",
        "b": "record",
        "outer": [{"b": "outer", "big": "x" * 2000, "inner": [{"n": "A"}]}],
    }
    assert only(nested, record) == {"alertname": "A", "a": "record", "b": "outer"}
    assert only(mapping(each="texts", labels={"alertname": "@"}), {"name": 1, "texts": ["A"]}) == {"alertname": "A"}
    assert only(mapping(each="one", labels={"alertname": "n"}), {"name": 1, "one": {"n": "A"}}) == {"alertname": "A"}


@pytest.mark.parametrize(
    ("keys", "record", "reason"),
    [
        ({"labels": {"a": "missing"}}, {}, "mapping mine: no labels"),
        ({"labels": {"a": "join('', missing)"}}, {}, "mapping mine: labels.a: In function join(), invalid type"),
        ({"annotations": {"a": "name > `1`"}}, {"name": "x"}, "mapping mine: annotations.a: '>' not supported"),
        ({"status": {"value": "state", "firing": ["bad"]}}, {}, "mapping mine: status: expected bad, got ''"),
        (
            {"status": {"value": "state", "firing": ["bad"], "resolved": ["good"]}}, {"state": "ugly"},
            "mapping mine: status: expected bad or good, got 'ugly'",
        ),
        ({"each": "list"}, {"list": []}, "mapping mine: each: contains no alerts"),
        ({"each": "list"}, {}, "mapping mine: each: contains no alerts"),
        ({"each": "list"}, {"list": [{"name": "A"}, {}]}, "mapping mine: [1]: no labels"),
        ({"each": "list"}, {"list": [1] * 2001}, "mapping mine: each: more than 2,000 items"),
        ({"unwrap": "inner"}, {}, "mapping mine: unwrap: expected an object, a list or a text of JSON"),
        ({"unwrap": "inner"}, {"inner": "text"}, "mapping mine: not JSON: invalid character"),
        ({"unwrap": "inner", "each": "list"}, {"list": [{"inner": {"x": 1}}]}, "mapping mine: [0]: "),
    ],
)  # fmt: skip
def test_a_record_that_a_mapping_cannot_read_is_refused_with_its_name(
    keys: dict[str, Any], record: dict[str, Any], reason: str
) -> None:
    """And with the key of the mapping that is concerned."""
    assert refusal(mapping(**keys), {"name": "A", **record}).startswith(reason)


def test_words_of_a_status_are_compared_without_case() -> None:
    """Producers change it between versions."""
    states = mapping(status={"value": "state", "firing": ["Alarm"], "resolved": ["OK"]})
    resolved = [states.parse({"name": "A", "state": state}, parse_record)[0].resolved for state in ("ALARM", "ok")]
    assert resolved == [False, True]


def test_a_mapping_with_the_same_texts_is_the_same() -> None:
    """Configurations are compared."""
    assert mapping(skip="a") == mapping(skip="a")
    assert mapping(skip="a") != mapping(skip="b")
    assert repr(Expression("a")) == "Expression('a')"


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_mapping_is_written_and_read_again(name: str) -> None:
    """As in a configuration that is dumped."""
    assert from_document(to_document(PRESETS[name])) == PRESETS[name]


def test_envelopes_may_be_three_deep() -> None:
    """More could be a record that contains itself."""
    record: Any = {"labels": {"alertname": "A"}, "status": "firing"}
    for depth in range(5):
        value = json.dumps(record).encode()
        if depth <= 3:
            assert [alert.mapping for alert in parse_record(value)] == [", ".join(["kube-eventer"] * depth) or None]
        else:
            with pytest.raises(Poison, match="in more than 3 envelopes"):
                parse_record(value)
        record = {"EventTags": {"a": "b"}, "EventValue": record}


def test_a_list_or_a_cloud_event_may_contain_mapped_records() -> None:
    """Like those of built-in formats."""
    record = next(record for name, record in RECORDS if name == "wazuh")
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": record}
    plain = {"labels": {"alertname": "A"}}
    assert [alert.mapping for alert in parse_record(json.dumps([record, plain, event]).encode())] == [
        "wazuh",
        None,
        "wazuh",
    ]


def test_a_configuration_has_its_own_mappings_first() -> None:
    """They are tried in order, before those of the package, and only where no built-in format takes the record."""
    own = [
        {"name": name, "when": when, "labels": {"alertname": "'mine'"}}
        for name, when in (("first", "rule && never"), ("second", "rule"), ("third", "rule"))
    ]
    config = loads(yaml.safe_dump({"mappings": own}), "c")
    assert loads(dump(config), "c") == config
    value = json.dumps(next(record for name, record in RECORDS if name == "wazuh")).encode()
    assert [alert.mapping for alert in parse(value, [], NOW, Mappings(config.mappings))] == ["second"]
    assert [alert.mapping for alert in parse(value, [], NOW)] == ["wazuh"]
    ((keyed, _),) = SeriesReader(config).parse(value, [], NOW)
    assert b"mine" in keyed.body
    built_in = b'{"labels": {"alertname": "A"}, "rule": 1}'
    assert [alert.mapping for alert in parse(built_in, [], NOW, Mappings(config.mappings))] == [None]


def test_the_presets_are_valid_in_a_configuration() -> None:
    """So a user can copy one and change it."""
    text = Path(mappings.__file__).with_suffix(".yaml").read_text()
    assert loads("mappings:\n" + text, "c").mappings == presets()


def test_the_example_of_the_page_works() -> None:
    """Its ten lines read its record."""
    page = (ROOT / "docs" / "reference" / "mappings.md").read_text()
    record, text = (page.split(f"```{kind}\n")[1].split("```")[0] for kind in ("json", "yaml"))
    config = loads(text, "c")
    assert len(text.splitlines()) <= 12
    (alert,) = parse(record.encode(), [], NOW, Mappings(config.mappings))
    assert decode_labels(alert.labels) == {
        "alertname": "disk-full", "cluster": "eu1", "severity": "critical", "instance": "db-1"
    }  # fmt: skip
    assert (decode_annotations(alert.annotations), alert.resolved, alert.mapping) == (
        {"summary": "3 % free"},
        False,
        "disk-checks",
    )
    (resolved,) = parse(record.replace('"level": 2', '"level": 0').encode(), [], NOW, Mappings(config.mappings))
    assert resolved.resolved and resolved.fingerprint == alert.fingerprint


def test_an_error_in_a_condition_leaves_the_record_to_other_mappings() -> None:
    """A condition is tried on the records of all producers."""
    assert not mapping(when="contains(name, 'x')").matches({"name": 1})
    assert not mapping(when="name > `1`").matches({"name": "x"})
    assert not mapping(when="type(@)").matches([1])


def test_a_record_that_is_too_large_is_not_tried() -> None:
    """This holds even if a mapping matches it, and the reason names that."""
    record = dict(RECORDS[0][1], more="x" * mappings.MAX_RECORD_BYTES)
    with pytest.raises(Poison, match="too large for a mapping"):
        parse_record(json.dumps(record).encode())
