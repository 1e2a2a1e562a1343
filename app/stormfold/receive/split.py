"""Cuts a request body into records, in order and in the same envelope.

An envelope is everything around the list of alerts: the other fields of a webhook, or nothing for a bare
list. intake processes a record as a whole, so alerts that it would not understand become records of their own: the
alerts around them are not lost with them, and the dead letter holds what is wrong and nothing else.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Raw

from stormfold.decoding import DECODE_ERRORS

MAX_RECORD_BYTES = 256 * 1024
"""Largest record with more than one alert: a quarter of the largest that Kafka takes by default."""
MAX_ALERT_BYTES = 900_000
"""Largest record with a single alert: with its headers it fits into the 1 MiB that Kafka takes by default."""
MAX_FIELD_BYTES = 16 * 1024
"""Largest envelope field that is repeated in every record. No format reads a larger one."""
_LISTS = ("alerts", "items")
"""Fields that hold a list of alerts: Alertmanager's webhook, and a List of Kubernetes Events."""

_decode = msgspec.json.Decoder(dict[str, Raw] | list[Raw]).decode
_items = msgspec.json.Decoder(list[Raw]).decode
_name = msgspec.json.encode


class NotJSON(ValueError):
    """The body is not JSON."""


class TooLarge(ValueError):
    """An alert is larger than a record can be."""


class Split(NamedTuple):
    """The records of a body."""

    records: list[bytes]
    invalid: int
    """How many of the records intake will send to the dead-letter queue."""


def split(body: bytes, understood: Callable[[bytes], bool]) -> Split:
    """Cuts a body into records; none for an empty list. `understood` decides whether intake would accept a record.

    Raises `NotJSON` and `TooLarge`.
    """
    before, items, after = _envelope(body)
    if not items:
        return Split([], 0)
    if understood(body):
        # As it came, unless it is too large: nothing that a format may read is left out.
        fits = len(body) <= MAX_RECORD_BYTES or len(items) == 1
        records = [body] if fits else list(_pack(before, items, after, [True] * len(items)))
        return Split(_limited(records), 0)
    if len(items) == 1:
        return Split(_limited([body]), 1)
    accepted = [understood(before + item + after) for item in items]
    return Split(_limited(list(_pack(before, items, after, accepted))), accepted.count(False))


def _limited(records: list[bytes]) -> list[bytes]:
    if (largest := max(map(len, records))) > MAX_ALERT_BYTES:
        raise TooLarge(f"an alert has {largest} bytes, at most {MAX_ALERT_BYTES} fit into a record")
    return records


def _envelope(body: bytes) -> tuple[bytes, Sequence[bytes], bytes]:
    """What is before the alerts, the alerts, and what is after them."""
    try:
        decoded = _decode(body)
    except msgspec.ValidationError:
        return b"", [body], b""
    except DECODE_ERRORS as error:
        # Several JSON values, one in each line, are what a file has, not a request.
        hint = "; put several alerts into a list" if "trailing characters" in str(error) else ""
        raise NotJSON(f"{error}{hint}") from error
    if isinstance(decoded, list):
        return b"[", [bytes(item) for item in decoded], b"]"
    for field in _LISTS:
        if (found := decoded.get(field)) is not None and bytes(found).startswith(b"["):
            items = [bytes(item) for item in _items(found)]
            rest = [
                _name(name) + b":" + bytes(value)
                for name, value in decoded.items()
                if name != field and len(bytes(value)) <= MAX_FIELD_BYTES
            ]
            return b"{" + b"".join(part + b"," for part in rest) + _name(field) + b":[", items, b"]}"
    return b"", [body], b""


def _pack(before: bytes, items: Sequence[bytes], after: bytes, accepted: Sequence[bool]) -> Iterator[bytes]:
    """Records of consecutive accepted items up to `MAX_RECORD_BYTES`, and one for each other item."""
    room = MAX_RECORD_BYTES - len(before) - len(after)
    chunk: list[bytes] = []
    size = 0
    for item, fits_with_others in zip(items, accepted, strict=True):
        if chunk and (not fits_with_others or size + len(item) > room):
            yield before + b",".join(chunk) + after
            chunk, size = [], 0
        if fits_with_others:
            chunk.append(item)
            size += len(item) + 1
        else:
            yield before + item + after
    if chunk:
        yield before + b",".join(chunk) + after
