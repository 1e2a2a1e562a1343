"""Cuts a request body into records, in order and in the same envelope.

An envelope is everything around the list of alerts: the other fields of a webhook, or nothing for a bare
list. intake processes a record as a whole, so alerts that it would not understand become records of their own: the
alerts around them are not lost with them, and the dead letter holds what is wrong and nothing else. An alert that no
record can hold is left out, and the others are not.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Raw

from stormfold.decoding import DECODE_ERRORS
from stormfold.text import escape_unprintable

MAX_RECORD_BYTES = 256 * 1024
"""Largest record with more than one alert: a quarter of the largest that Kafka takes by default."""
MAX_ALERT_BYTES = 900_000
"""Largest record with a single alert: with its headers it fits into the 1 MiB that Kafka takes by default."""
MAX_FIELD_BYTES = 16 * 1024
"""Largest envelope field that is repeated in every record. No format reads a larger one."""
_BEGINNING = 200
"""Bytes of an alert that is left out with which it is named."""
_LISTS = ("alerts", "items")
"""Fields that hold a list of alerts: Alertmanager's webhook, and a List of Kubernetes Events."""
_ONCE = "truncatedAlerts"
"""The field of a webhook that is counted: only one of its records has it."""
_MAX_ONCE = 32
"""Largest value of this field that is kept, in bytes: a number of alerts is shorter."""

_decode = msgspec.json.Decoder(dict[str, Raw] | list[Raw]).decode
_items = msgspec.json.Decoder(list[Raw]).decode
_name = msgspec.json.encode


class NotJSON(ValueError):
    """The body is not JSON."""


class Split(NamedTuple):
    """The records of a body."""

    records: list[bytes]
    invalid: int
    """How many of the records intake will send to the dead-letter queue."""
    too_large: list[str]
    """A line about each alert that is not in the records, because it is larger than one can be."""


def split(body: bytes, understood: Callable[[bytes], bool]) -> Split:
    """Cuts a body into records; none for an empty list. `understood` decides whether intake would accept a record.

    Raises `NotJSON`.
    """
    before, items, after, once = _envelope(body)
    if not items:
        return Split([], 0, [])
    whole = understood(body)
    if len(items) == 1 or (whole and len(body) <= MAX_RECORD_BYTES):
        # As it came: nothing that a format may read is left out.
        if len(body) > MAX_ALERT_BYTES:
            return Split([], 0, [_describe(body, "the alert")])
        return Split([body], 0 if whole else 1, [])
    packer = _Packer(before, after, once)
    for number, item in enumerate(items, 1):
        if len(before) + len(item) + len(after) > MAX_ALERT_BYTES:
            packer.too_large.append(_describe(item, f"alert {number} of {len(items)}"))
        elif whole or understood(before + item + after):
            packer.add(item)
        else:
            packer.add_invalid(item)
    return packer.finish()


class _Packer:
    """Collects records of consecutive alerts up to `MAX_RECORD_BYTES`, and one for each alert that is invalid."""

    def __init__(self, before: bytes, after: bytes, once: bytes) -> None:
        self._before, self._after, self._once = before, after, once
        self._room = MAX_RECORD_BYTES - len(before) - len(after) - len(once)
        self._first: int | None = None
        """Index of the first record that is not invalid."""
        self._chunk: list[bytes] = []
        self._size = 0
        self.records: list[bytes] = []
        self.invalid = 0
        self.too_large: list[str] = []

    def add(self, item: bytes) -> None:
        if self._size + len(item) > self._room:
            self.flush()
        self._chunk.append(item)
        self._size += len(item) + 1

    def add_invalid(self, item: bytes) -> None:
        self.flush()
        self.records.append(self._before + item + self._after)
        self.invalid += 1

    def flush(self) -> None:
        if self._chunk:
            if self._first is None:
                self._first = len(self.records)
            self.records.append(self._before + b",".join(self._chunk) + self._after)
            self._chunk, self._size = [], 0

    def finish(self) -> Split:
        self.flush()
        if self._once and self.records:
            # Not in a dead letter, of which intake reads nothing, if there is another record.
            first = self._first or 0
            self.records[first] = b"{" + self._once + self.records[first][1:]
        return Split(self.records, self.invalid, self.too_large)


def _describe(item: bytes, name: str) -> str:
    beginning = escape_unprintable(item[:_BEGINNING].decode(errors="replace"))
    return f"{name} has {len(item):,} bytes, at most {MAX_ALERT_BYTES:,} fit into a record; it begins with {beginning}"


def _envelope(body: bytes) -> tuple[bytes, Sequence[bytes], bytes, bytes]:
    """What is before the alerts, the alerts, what is after them, and the field that only one record has."""
    try:
        decoded = _decode(body)
    except msgspec.ValidationError:
        return b"", [body], b"", b""
    except DECODE_ERRORS as error:
        # Several JSON values, one in each line, are what a file has, not a request.
        hint = "; put several alerts into a list" if "trailing characters" in str(error) else ""
        raise NotJSON(f"{error}{hint}") from error
    if isinstance(decoded, list):
        return b"[", [bytes(item) for item in decoded], b"]", b""
    for field in _LISTS:
        if (found := decoded.get(field)) is not None and bytes(found).startswith(b"["):
            items = [bytes(item) for item in _items(found)]
            rest = [
                _name(name) + b":" + bytes(value)
                for name, value in decoded.items()
                if name not in (field, _ONCE) and len(bytes(value)) <= MAX_FIELD_BYTES
            ]
            count = bytes(decoded.get(_ONCE, b""))
            once = _name(_ONCE) + b":" + count + b"," if 0 < len(count) <= _MAX_ONCE else b""
            return b"{" + b"".join(part + b"," for part in rest) + _name(field) + b":[", items, b"]}", once
    return b"", [body], b"", b""
