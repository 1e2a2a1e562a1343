"""Cutting request bodies into records that intake reads as it would read the body."""

from collections.abc import Callable

from msgspec.json import encode

from stormfold.decoding import Poison
from stormfold.formats import check_contents, parse
from stormfold.formats.mappings import Mappings, from_document
from stormfold.receive.split import split

NOW = 1_767_226_200_000
TITLE = {"when": "title && items", "labels": {"alertname": "title"}}
"""A mapping of one alert that has a list of its own."""
EVENTS = {"each": "events", "when": "events", "labels": {"alertname": "name"}}
"""A mapping of the alerts in a list that no built-in format has."""


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
