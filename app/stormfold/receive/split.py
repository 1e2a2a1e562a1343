"""Cuts a request body into records, in order and in the same envelope.

An envelope is everything around the list of alerts: the other fields of a webhook, or nothing for a bare
list. intake processes a record as a whole, so alerts that it would not understand become records of their own: the
alerts around them are not lost with them, and the dead letter holds what is wrong and nothing else. If that would
repeat a large envelope very often, they share records. An alert that no record can hold is left out, and the others are
not. A body stays whole if intake would not read the same number of alerts from its records.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Raw

from stormfold.decoding import DECODE_ERRORS
from stormfold.text import escape_unprintable

MAX_RECORD_BYTES = 256 * 1024
"""Largest record of alerts that can be cut: a quarter of the largest that Kafka takes by default."""
MAX_ALERT_BYTES = 900_000
"""Largest record that cannot be cut, such as a single alert: with its headers it fits into the 1 MiB that Kafka takes
by default."""
MAX_ENVELOPE_BYTES = 16 * 1024
"""Largest envelope that is repeated in every record."""
MAX_ENVELOPES_BYTES = 1_000_000
"""Largest sum of the envelopes of a body's records in which each invalid alert has a record of its own: a small body
may have very many of those."""
MAX_RECORDS_BYTES = 128 * 1024 * 1024
"""Largest sum of the sizes of a body's records, `RECORD_BYTES` added to each. The largest body has about half of it,
even if none of its alerts is understood."""
RECORD_BYTES = 1024
"""About what a record takes in memory in addition to its value, until Kafka has it."""
MAX_COMMAS = 2_000_000
"""Most commas of a body, which limit how many values it has: each takes 60 to 200 bytes of memory, whatever its size.
In the largest body, alerts have about half as many."""
MAX_WHOLE = 100_000
"""Most alerts of a body that is parsed as a whole before it is split: parsed alerts are several times as large."""
_BEGINNING = 200
"""Bytes of an alert that is left out with which it is named."""
_LISTS = ("alerts", "items")
"""Fields that hold a list of alerts: Alertmanager's webhook, and a List of Kubernetes Events."""
_READ = ("status", "commonLabels", "groupLabels", "kind")
"""Fields of an envelope that formats read."""
_MAX_FIELDS = 100
"""Most fields of an envelope of which others are kept too."""
_ONCE = "truncatedAlerts"
"""The field of a webhook that is counted: only one of its records has it."""
_MAX_ONCE = 32
"""Largest such field that is kept, in bytes: one with a number of alerts is smaller."""

_decode = msgspec.json.Decoder(dict[str, Raw] | list[Raw]).decode
_items = msgspec.json.Decoder(list[Raw]).decode
_name = msgspec.json.encode


class NotJSON(ValueError):
    """The body is not JSON."""


class TooLarge(ValueError):
    """The records of the body would take too much memory."""


class Split(NamedTuple):
    """The records of a body."""

    records: list[bytes]
    invalid: int
    """How many of the records intake will send to the dead-letter queue."""
    too_large: list[str]
    """A line about each alert that is not in the records, because it is larger than one can be."""


def split(body: bytes, alerts_of: Callable[[bytes], int | None]) -> Split:
    """Cuts a body into records; none for an empty list.

    `alerts_of` returns the number of alerts that intake reads from a record, and None if it refuses the record.

    Raises `NotJSON` and `TooLarge`.
    """
    if body.count(b",") > MAX_COMMAS:
        raise TooLarge(f"it has more than {MAX_COMMAS:,} values: send fewer alerts at once")
    parts = _take_apart(body)
    count = len(parts.items)
    alerts = alerts_of(body) if count <= MAX_WHOLE else None
    whole = alerts is not None
    if not (count or alerts):
        return Split([], 0, [])
    if len(body) <= (MAX_ALERT_BYTES if count <= 1 or alerts == 1 else MAX_RECORD_BYTES if whole else 0):
        # As it came: nothing that a format may read is left out.
        return Split([body], 0 if whole else 1, [])
    packer = _Packer(parts, alerts_of)
    expected = alerts or 0
    for number, raw in enumerate(parts.items, 1):
        item = bytes(raw)
        if len(parts.before) + len(item) + len(parts.after) > MAX_ALERT_BYTES:
            packer.too_large.append(_describe(item, f"alert {number} of {count}"))
            if whole:
                expected -= alerts_of(parts.record(item)) or 0
        elif whole:
            packer.add(item)
        elif (found := alerts_of(parts.record(item))) is not None:
            packer.add(item)
            expected += found
        else:
            packer.add_invalid(item)
    if (result := packer.finish(expected)) is not None:
        return result
    # A mapping reads other alerts than those in the list, or more of the envelope than is repeated.
    if len(body) <= MAX_ALERT_BYTES:
        return Split([body], 0 if whole or alerts_of(body) is not None else 1, [])
    return Split([], 0, [_describe(body, "the alert" if alerts == 1 else "the body, which cannot be split,")])


class _Parts(NamedTuple):
    """A body in parts."""

    items: Sequence[Raw | bytes]
    before: bytes = b""
    """The beginning of the envelope."""
    after: bytes = b""
    once: bytes = b""
    """The field that only one record has."""

    def record(self, items: bytes) -> bytes:
        """A record of these items."""
        return self.before + items + self.after


class _Chunk:
    """Alerts that will be one record."""

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.size = 0

    def add(self, item: bytes) -> None:
        self.items.append(item)
        self.size += len(item) + 1


class _Packer:
    """Collects records of consecutive alerts up to `MAX_RECORD_BYTES`, and one for each alert that is invalid.

    Beyond `MAX_ENVELOPES_BYTES`, invalid alerts share records too. Their envelope is the one in which they were found
    invalid: intake could accept them in another one, or a redrive could not.
    """

    def __init__(self, parts: _Parts, alerts_of: Callable[[bytes], int | None]) -> None:
        self._parts = parts
        self._alerts_of = alerts_of
        self._alerts = 0
        """The alerts that intake reads from the records."""
        self._refused = True
        """Whether intake refuses all records of invalid alerts."""
        self._envelope = len(parts.before) + len(parts.after)
        self._room = MAX_RECORD_BYTES - self._envelope - len(parts.once)
        self._valid = _Chunk()
        self._invalid = _Chunk()
        self._total = 0
        self._first: int | None = None
        """Index of the first record that is not invalid."""
        self.records: list[bytes] = []
        self.invalid = 0
        self.too_large: list[str] = []

    def add(self, item: bytes) -> None:
        if self._valid.size + len(item) > self._room:
            self._flush_valid()
        self._valid.add(item)

    def add_invalid(self, item: bytes) -> None:
        if self._invalid.size + len(item) > self._room:
            self._flush_invalid()
        self._invalid.add(item)
        if self._envelope * len(self.records) <= MAX_ENVELOPES_BYTES:
            self._flush_valid()
            self._flush_invalid()

    def finish(self, alerts: int) -> Split | None:
        """The records; None if intake reads another number of alerts from them."""
        self._flush_valid()
        self._flush_invalid()
        if self._alerts != alerts or not self._refused:
            return None
        if self._parts.once and self.records:
            # Not in a dead letter, of which intake reads nothing, if there is another record.
            first = self._first or 0
            self.records[first] = b"{" + self._parts.once + self.records[first][1:]
        return Split(self.records, self.invalid, self.too_large)

    def _flush_valid(self) -> None:
        if self._valid.items:
            if self._first is None:
                self._first = len(self.records)
            self._alerts += self._alerts_of(self._write(self._valid)) or 0
            self._valid = _Chunk()

    def _flush_invalid(self) -> None:
        if self._invalid.items:
            self.invalid += 1
            record = self._write(self._invalid)
            if len(self._invalid.items) > 1:
                self._refused &= self._alerts_of(record) is None
            self._invalid = _Chunk()

    def _write(self, chunk: _Chunk) -> bytes:
        record = self._parts.record(b",".join(chunk.items))
        self._total += len(record) + RECORD_BYTES
        if self._total > MAX_RECORDS_BYTES:
            raise TooLarge(f"its records would have more than {MAX_RECORDS_BYTES:,} bytes: send fewer alerts at once")
        self.records.append(record)
        return record


def _describe(item: bytes, name: str) -> str:
    beginning = escape_unprintable(item[:_BEGINNING].decode(errors="replace"))
    return f"{name} has {len(item):,} bytes, at most {MAX_ALERT_BYTES:,} fit into a record; it begins with {beginning}"


def _take_apart(body: bytes) -> _Parts:
    try:
        decoded = _decode(body)
    except msgspec.ValidationError:
        return _Parts([body])
    except DECODE_ERRORS as error:
        # Several JSON values, one in each line, are what a file has, not a request.
        hint = "; put several alerts into a list" if "trailing characters" in str(error) else ""
        raise NotJSON(f"{error}{hint}") from error
    if isinstance(decoded, list):
        return _Parts(decoded, b"[", b"]")
    for field in _LISTS:
        if (found := decoded.get(field)) is not None and bytes(found).startswith(b"["):
            once = _members({name: value for name, value in decoded.items() if name == _ONCE}, _MAX_ONCE)
            names = decoded.keys() - {field, _ONCE} if len(decoded) <= _MAX_FIELDS else _READ
            others = {name: value for name, value in decoded.items() if name in names}
            before = b"{" + _members(others, MAX_ENVELOPE_BYTES) + _name(field) + b":["
            return _Parts(_items(found), before, b"]}", once)
    return _Parts([body])


def _members(fields: Mapping[str, Raw], limit: int) -> bytes:
    """The fields that fit into `limit` bytes, in their order: first those that formats read, then the shortest."""
    parts = {
        name: _name(name) + b":" + bytes(value) + b"," for name, value in fields.items() if len(bytes(value)) <= limit
    }
    kept = set()
    for name in sorted(parts, key=lambda name: (name not in _READ, len(parts[name]))):
        if len(parts[name]) <= limit:
            limit -= len(parts[name])
            kept.add(name)
    return b"".join(part for name, part in parts.items() if name in kept)
