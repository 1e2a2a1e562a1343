"""Cutting request bodies into records that intake reads as it would read the body."""

from collections.abc import Callable

import pytest
from msgspec.json import decode, encode

from stormfold.decoding import Poison
from stormfold.formats import check_contents, parse
from stormfold.formats.mappings import Mappings, from_document
from stormfold.receive import split as module
from stormfold.receive.split import split

NOW = 1_767_226_200_000
TITLE = {"when": "title && items", "labels": {"alertname": "title"}}
"""A mapping of one alert that has a list of its own."""
EVENTS = {"each": "events", "when": "events", "labels": {"alertname": "name"}}
"""A mapping of the alerts in a list that no built-in format has."""
SITE = {"when": "site && items", "each": "items", "labels": {"alertname": "name", "site": "parent.site"}}
"""A mapping that reads a field of the envelope."""
COMMON = {"alertname": "DiskFull", "text": 5, "description": "x" * 1_100}
"""Labels that make every alert of a webhook invalid."""


def reader(**mapping: object) -> Callable[[bytes], int | None]:
    """Counts the alerts of a record as intake does, with this mapping if any; None if it is refused."""
    mappings = Mappings((from_document({"name": "mine", **mapping}),) if mapping else ())

    def alerts_of(record: bytes) -> int | None:
        try:
            alerts = parse(record, [], NOW, mappings)
            check_contents(alerts)
        except Poison:
            return None
        return len(alerts)

    return alerts_of


def test_alerts_next_to_an_empty_list_stay_in_one_record() -> None:
    """They cannot be cut, so the larger limit applies."""
    alerts_of = reader(**EVENTS)
    body = encode({"events": [{"name": f"event{n}", "text": "x" * 580} for n in range(600)], "items": []})
    assert len(body) > 256 * 1024
    found = split(body, alerts_of)
    assert found.records == [body] and not found.too_large and alerts_of(body) == 600


@pytest.mark.parametrize("limit", [module.MAX_ENVELOPES_BYTES, 5_000])
def test_invalid_alerts_keep_the_envelope_that_makes_them_invalid(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """intake sends their records to the dead-letter queue, also those that several of them share."""
    monkeypatch.setattr(module, "MAX_ENVELOPES_BYTES", limit)
    alerts_of = reader()
    alerts = [{"labels": {"node": str(number)}} for number in range(20)]
    found = split(encode({"version": "4", "status": "firing", "commonLabels": COMMON, "alerts": alerts}), alerts_of)
    assert [alerts_of(record) for record in found.records] == [None] * found.invalid
    records = [decode(record) for record in found.records]
    assert [alert for record in records for alert in record["alerts"]] == alerts
    assert all(record["commonLabels"] == COMMON for record in records)
    assert (len(records) < len(alerts)) == (limit == 5_000)


def test_invalid_alerts_keep_what_a_mapping_reads() -> None:
    """After their fault is corrected, a redrive succeeds."""
    alerts_of = reader(**SITE)
    site, items = "x" * 1_100, [{"name": "Down"}, {}, {"name": "Down"}]
    found = split(encode({"site": site, "items": items}), alerts_of)
    assert [decode(record) for record in found.records] == [{"site": site, "items": [item]} for item in items]
    assert [alerts_of(record) for record in found.records] == [1, None, 1] and found.invalid == 1


def body_of(size: int, **fields: object) -> bytes:
    """A body of about this size with these fields, and items that are not alerts."""
    items = [{"number": number, "text": "x" * 100} for number in range(size // 130)]
    return encode({**fields, "items": items})


@pytest.mark.parametrize(("size", "records"), [(300_000, 1), (880_000, 1), (993_188, 0), (2_000_000, 0)])
def test_an_alert_with_a_list_of_its_own_is_counted_once_or_named(size: int, records: int) -> None:
    """Each part of the list would be read as the same alert, also where the body is too large for a mapping."""
    alerts_of = reader(**TITLE)
    body = body_of(size, title="Down")
    found = split(body, alerts_of)
    assert found.records == [body][:records] and [alerts_of(record) for record in found.records] == [1] * records
    assert (found.invalid, len(found.too_large)) == (0, 1 - records)


def test_an_alert_with_a_very_long_list_of_its_own_is_not_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its body is parsed as a whole after all."""
    monkeypatch.setattr(module, "MAX_WHOLE", 2)
    body = body_of(300_000, title="Down")
    assert split(body, reader(**TITLE)) == ([body], 0, [])


@pytest.mark.parametrize(("size", "records"), [(345_000, 1), (950_000, 0)])
def test_a_list_next_to_that_of_the_alerts_does_not_repeat_them(size: int, records: int) -> None:
    """The body stays whole, or nothing of it is written."""
    alerts_of = reader(**EVENTS)
    body = body_of(size, events=[{"name": "A"}, {"name": "B"}])
    found = split(body, alerts_of)
    assert found.records == [body][:records] and [alerts_of(record) for record in found.records] == [2] * records
    assert (found.invalid, len(found.too_large)) == (0, 1 - records)


def test_a_body_whose_mapping_reads_a_large_field_of_the_envelope_stays_whole() -> None:
    """Without the field, intake would refuse the records."""
    alerts_of = reader(**SITE | {"labels": {"alertname": "name"}})
    items = [{"name": "Down", "text": "x" * 1_000}] * 400
    body = encode({"site": "x" * 20_000, "items": items})
    assert split(body, alerts_of).records == [body] and alerts_of(body) == 400


def test_alerts_that_are_skipped_do_not_keep_a_body_whole() -> None:
    """The records have as many alerts as the body, not as many as items."""
    alerts_of = reader(**SITE | {"skip": "name == 'Other'"})
    items = [{"name": "Other" if number % 3 else "Down", "text": "x" * 1_000} for number in range(600)]
    found = split(encode({"site": "a", "items": items}), alerts_of)
    assert len(found.records) > 1 and sum(alerts_of(record) or 0 for record in found.records) == 200


@pytest.mark.parametrize("others", [1, 400])
def test_an_alert_that_is_too_large_does_not_keep_its_body_whole(others: int) -> None:
    """The others are written."""
    alerts_of = reader()
    good = {"labels": {"alertname": "Down"}, "annotations": {"text": "x" * 1_000}}
    found = split(encode([good | {"generatorURL": "x" * 1_000_000}, *[good] * others]), alerts_of)
    assert sum(alerts_of(record) or 0 for record in found.records) == others and len(found.too_large) == 1


def test_invalid_alerts_share_records_only_if_intake_refuses_those(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping that reads two items at once would accept them."""
    monkeypatch.setattr(module, "MAX_ENVELOPES_BYTES", 0)
    alerts_of = reader(when="items[1]", labels={"alertname": "items[0].name"})
    body = encode({"text": "x" * 100, "items": [{}, {"name": "A"}, {"name": "B"}]})
    assert alerts_of(body) is None
    found = split(body, alerts_of)
    assert (found.records, found.invalid) == ([body], 1)
