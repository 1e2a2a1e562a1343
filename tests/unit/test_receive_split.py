"""Cutting request bodies into records."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormfold.receive import split as module
from stormfold.receive.split import NotJSON, TooLarge, split

ALERT = {"labels": {"alertname": "Down"}}
BAD = {"labels": "none"}


def understood(record: bytes) -> bool:
    """Whether a record has no bad alert."""
    return b'"none"' not in record


def count(record: bytes) -> int | None:
    """The number of alerts in a record without a bad one."""
    if not understood(record):
        return None
    content = msgspec.json.decode(record)
    listed = content.get("alerts", content.get("items")) if isinstance(content, dict) else content
    return len(listed) if isinstance(listed, list) else 1


def encoded(value: object) -> bytes:
    """`value` as JSON."""
    return msgspec.json.encode(value)


def cut(body: object) -> list[Any]:
    """The decoded records of a body."""
    return [msgspec.json.decode(record) for record in split(encoded(body), count).records]


def test_a_small_body_is_one_record() -> None:
    """Nothing is changed but white space."""
    for body in (
        ALERT,
        [ALERT, ALERT],
        {"version": "4", "alerts": [ALERT]},
        {"kind": "List", "items": [ALERT]},
        5,
        "x",
    ):
        assert cut(body) == [body]


def test_empty_lists_give_no_record() -> None:
    """A ruler that has nothing to send is not answered with an error."""
    assert cut([]) == [] and cut({"version": "4", "alerts": []}) == []


@pytest.mark.parametrize("body", [b"", b"{", b"alerts", b"\xff", b"[" * 100_000])
def test_a_body_that_is_not_json_is_refused(body: bytes) -> None:
    """Such a body can never be understood, and its sender must hear of it."""
    with pytest.raises(NotJSON):
        split(body, count)


def test_alerts_that_are_not_understood_become_records_of_their_own() -> None:
    """The alerts around them stay together, everything in order and in the same envelope."""
    body = {"version": "4", "alerts": [ALERT, ALERT, BAD, ALERT, BAD, BAD]}
    records = [{"version": "4", "alerts": alerts} for alerts in ([ALERT, ALERT], [BAD], [ALERT], [BAD], [BAD])]
    assert cut(body) == records
    assert cut([BAD, ALERT]) == [[BAD], [ALERT]]


def test_a_large_alert_has_a_record_of_its_own_up_to_the_limit_of_a_record() -> None:
    """Up to that limit it is written, even if intake refuses it."""
    large = {"labels": {"alertname": "Down"}, "annotations": {"text": "x" * 600_000}}
    assert cut([ALERT, large, ALERT]) == [[ALERT], [large], [ALERT]]


@pytest.mark.parametrize("accepted", [True, False])
def test_an_alert_that_no_record_can_hold_takes_none_of_its_neighbours_with_it(accepted: bool) -> None:
    """It is named with its place, its size and its beginning; all others are in the records."""
    huge = {"labels": {"alertname": "Huge\n"}, "annotations": {"text": "x" * 1_000_000}}
    body = {"status": "firing", "alerts": [ALERT, huge, BAD, ALERT]}
    found = split(encoded(body), lambda record: count(record) if accepted or b"Huge" not in record else None)
    alerts = [alert for record in found.records for alert in msgspec.json.decode(record)["alerts"]]
    assert alerts == [ALERT, BAD, ALERT] and found.invalid == 1
    (line,) = found.too_large
    assert line.startswith("alert 2 of 4 has 1,000,") and '{"labels":{"alertname":"Huge\\n"}' in line
    assert len(line) < 400 and line.isprintable()


def test_a_single_alert_that_no_record_can_hold_gives_no_record() -> None:
    """It is named, whatever is around it."""
    for body in ({"labels": {"alertname": "x" * 1_000_000}}, [BAD | {"text": "x" * 1_000_000}]):
        found = split(encoded(body), count)
        assert (found.records, found.invalid, len(found.too_large)) == ([], 0, 1)


def test_a_single_alert_in_an_envelope_that_no_record_can_hold_is_written_without_it() -> None:
    """The fields that formats read are kept."""
    assert cut({"status": "resolved", "junk": "x" * 1_000_000, "alerts": [ALERT]}) == [
        {"status": "resolved", "alerts": [ALERT]}
    ]


def test_large_fields_of_the_envelope_are_not_repeated() -> None:
    """Otherwise a body of 32 MiB could become a thousand times as much."""
    body = {"commonLabels": {"a": "b"}, "junk": "x" * 20_000, "alerts": [ALERT, BAD]}
    assert cut(body) == [{"commonLabels": {"a": "b"}, "alerts": [alert]} for alert in (ALERT, BAD)]


@pytest.mark.parametrize("fields", [1, 50])
@pytest.mark.parametrize("alerts", [[BAD] * 1_000, [ALERT, BAD] * 500])
def test_the_envelope_is_limited_as_a_whole(fields: int, alerts: list[object]) -> None:
    """The records of a small body stay small in sum: alerts that are not understood share some of them."""
    junk = {f"field{number}": "x" * 15_000 for number in range(fields)}
    found = split(encoded({**junk, "status": "firing", "alerts": alerts}), count)
    assert sum(map(len, found.records)) < 1_100 * 1_000 and max(map(len, found.records)) < 64_000
    good = [msgspec.json.decode(record) for record in found.records if understood(record)]
    bad = [msgspec.json.decode(record) for record in found.records if not understood(record)]
    assert all(record["status"] == "firing" and len(record["field0"]) == 15_000 for record in good + bad)
    assert [alert for record in good for alert in record["alerts"]] == [alert for alert in alerts if alert != BAD]
    assert [alert for record in bad for alert in record["alerts"]] == [alert for alert in alerts if alert == BAD]
    assert found.invalid == len(bad)


def test_the_fields_that_formats_read_have_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record has its common labels, whatever else is in its envelope."""
    read = {"status": "resolved", "groupLabels": {"a": "b"}, "commonLabels": {"text": "x" * 800}}
    others = {f"field{number}": "x" * 90 for number in range(20)}
    body = {**others, **read, "alerts": [BAD, ALERT]}
    assert cut(body) == [{**others, **read, "alerts": [alert]} for alert in (BAD, ALERT)]
    monkeypatch.setattr(module, "MAX_ENVELOPE_BYTES", 1024)
    for record in cut(body):
        assert record.items() >= read.items() and len(record) == 1 + len(read) + 1


def test_of_very_many_fields_only_those_that_formats_read_are_kept() -> None:
    """No format has as many."""
    body = {f"field{number}": 1 for number in range(1_000)} | {"status": "resolved", "alerts": [ALERT, BAD]}
    assert cut(body) == [{"status": "resolved", "alerts": [alert]} for alert in (ALERT, BAD)]


def test_a_body_whose_records_would_fill_the_memory_is_refused_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record counts with what it takes in addition to its value, and no more alerts are read than fit."""
    monkeypatch.setattr(module, "MAX_RECORDS_BYTES", 1_000_000)
    calls = 0

    def refuse(_: bytes) -> None:
        nonlocal calls
        calls += 1

    with pytest.raises(TooLarge, match="1,000,000 bytes"):
        split(b"[" + b",".join([b"1"] * 10_000) + b"]", refuse)
    assert calls < 1_000


@pytest.mark.parametrize("alerts", [[ALERT] * 1_000, [BAD, ALERT, BAD, ALERT], [BAD, BAD]])
def test_alerts_that_a_sender_left_out_are_counted_once(alerts: list[dict[str, Any]]) -> None:
    """Only one of several records has their number: one that intake reads, if there is one."""
    entries = [alert | {"annotations": {"text": "x" * 1_000}} for alert in alerts]
    records = cut({"status": "firing", "truncatedAlerts": 5, "alerts": entries})
    assert len(records) > 1 and [alert for record in records for alert in record["alerts"]] == entries
    counts = [record.pop("truncatedAlerts", 0) for record in records]
    assert sum(counts) == 5 and all(record.keys() == {"status", "alerts"} for record in records)
    with_count = records[counts.index(5)]
    assert understood(encoded(with_count)) or not any(understood(encoded(record)) for record in records)


def test_a_number_of_alerts_left_out_that_is_none_is_not_repeated() -> None:
    """It may be anything, of any size."""
    for value in ("x" * 100, [1] * 100):
        assert cut({"truncatedAlerts": value, "alerts": [ALERT, BAD]}) == [
            {"alerts": [alert]} for alert in (ALERT, BAD)
        ]


@pytest.mark.parametrize("size", [20_000, 300_000])
@pytest.mark.parametrize("field", ['"items": [1, 2]', '"alerts": []'])
def test_a_body_that_is_one_alert_is_not_changed(field: str, size: int) -> None:
    """A producer's own format may use any field, and have a list that holds no alerts."""
    body = b' {"text": "' + b"x" * size + b'", ' + field.encode() + b"} "
    assert split(body, lambda _: 1).records == [body]


def test_a_body_that_is_one_alert_and_too_large_is_named() -> None:
    """Its empty list does not make it one without alerts."""
    found = split(b'{"text": "' + b"x" * 1_000_000 + b'", "items": []}', lambda _: 1)
    assert (found.records, len(found.too_large)) == ([], 1)


def test_records_that_intake_will_refuse_are_counted() -> None:
    """The sender hears of them in the answer."""
    assert [split(encoded(body), count).invalid for body in (ALERT, BAD, [ALERT, BAD, BAD])] == [0, 1, 2]


def test_a_body_of_very_many_values_is_refused_before_it_is_decoded() -> None:
    """A value of two bytes takes a hundred in memory."""
    with pytest.raises(TooLarge, match="2,000,000 values"):
        split(b"[" + b"1," * 2_000_001 + b"1]", lambda _: pytest.fail("it is parsed"))


def test_a_body_of_very_many_alerts_is_not_parsed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its alerts are parsed, then its records."""
    monkeypatch.setattr(module, "MAX_WHOLE", 2)
    monkeypatch.setattr(module, "MAX_RECORD_BYTES", 2 * len(encoded([ALERT])))
    parsed = []

    def accept(record: bytes) -> int | None:
        parsed.append(record)
        return count(record)

    records = [encoded([ALERT] * 2), encoded([ALERT])]
    assert split(encoded([ALERT] * 3), accept).records == records
    assert sorted(parsed) == sorted([encoded([ALERT])] * 3 + records)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=30),
    st.sampled_from(["list", "webhook"]),
    st.integers(60, 400),
)
def test_no_alert_is_lost_or_moved(alerts: list[tuple[bool, int]], form: str, limit: int) -> None:
    """All alerts, in order; records with several alerts hold none that is bad and stay within the limit."""
    items = [{"labels": "none" if bad else {"n": "x" * size}} for bad, size in alerts]
    body = items if form == "list" else {"status": "firing", "alerts": items}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_RECORD_BYTES", limit)
        records = split(encoded(body), count).records
    found = [msgspec.json.decode(record) for record in records]
    contents = [record if form == "list" else record["alerts"] for record in found]
    assert [alert for content in contents for alert in content] == items
    for record, content in zip(records, contents, strict=True):
        assert len(content) == 1 or (understood(record) and len(record) <= limit)
