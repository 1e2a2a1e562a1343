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
    good, bad = {"name": "Down"}, {"name": {}}
    site = "x" * 1_100
    found = split(encode({"site": site, "items": [good, bad, good]}), alerts_of)
    assert [decode(record) for record in found.records] == [
        {"site": site, "items": [item]} for item in (good, bad, good)
    ]
    assert [alerts_of(record) for record in found.records] == [1, None, 1] and found.invalid == 1
