"""Decoding of bytes that anybody may have written, within limits: they are decoded whole or refused with one error.

Records of `alerts` are refused with `Poison`, which has a reason and a place; all other bytes with `Malformed`.
"""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterable
from typing import Self, TypeVar

import msgspec

from stormfold.errors import DeadLetter
from stormfold.text import escape_unprintable

S = TypeVar("S")
T = TypeVar("T")

MAX_LABELS_BYTES = 64 * 1024
"""Largest labels object, as JSON. Labels are held in memory and sent with every alert."""
MAX_LABELS = 256
"""Most labels of one alert: several times what the busiest real ones carry."""
MAX_ANNOTATIONS_BYTES = 256 * 1024
"""Largest annotations object, as JSON: Kubernetes' own limit for annotations."""
_MAX_NAME = 64
"""Characters of a label name that a reason repeats."""
_MAX_REASON, _MAX_PLACE = 400, 160
"""Characters of a reason, and of its place. Escaping can make quoted text ten times as long."""

DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Everything that a decoder raises for input that it does not accept."""

_strings = msgspec.json.Decoder(dict[str, str])
_values = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)


class Malformed(ValueError):
    """These bytes are not what was expected."""


class Poison(DeadLetter):
    """This record is not understood."""

    def __init__(self, reason: str, place: str = "") -> None:
        # Both may quote the record.
        self.reason = escape_unprintable(reason)[:_MAX_REASON]
        self.place = escape_unprintable(place)[:_MAX_PLACE]
        """Where in the record, like `alerts[3].labels.pod`; empty: the record as a whole."""
        super().__init__(f"{self.place}: {self.reason}" if place else self.reason)

    def prefixed(self, place: str) -> Self:
        """The same reason with `place` before its own place."""
        dot = "." if self.place and not self.place.startswith("[") else ""
        return type(self)(self.reason, place + dot + self.place)


def decode_untrusted(decode: Callable[[S], T], raw: S) -> T:
    """`decode(raw)` of an msgspec decoder; raises `Malformed` for any bytes that it refuses, too deep ones included."""
    try:
        return decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError) as error:
        raise Malformed(str(error)) from error


def decode_json(decoder: msgspec.json.Decoder[T], raw: bytes | msgspec.Raw) -> T:
    """`decoder.decode(raw)`; raises `Poison` for any bytes that it refuses."""
    try:
        return decoder.decode(raw)
    except DECODE_ERRORS as error:
        raise to_poison(error, raw) from error


def to_poison(error: Exception, raw: bytes | msgspec.Raw) -> Poison:
    """One of `DECODE_ERRORS`, raised for `raw`, in words for people."""
    if isinstance(error, msgspec.ValidationError):
        reason, _, place = str(error).replace("`", "").partition(" - at $")
        return Poison(reason[:1].lower() + reason[1:], place.removeprefix("."))
    if isinstance(error, msgspec.DecodeError):
        if bytes(memoryview(raw)[:3]) == BOM_UTF8:
            return Poison("not JSON: begins with a byte order mark")
        # msgspec reports "truncated" for "\ud800" too.
        reason = str(error).replace("Input data was truncated", "truncated, or half of a surrogate pair")
        return Poison(f"not JSON: {reason.removeprefix('JSON is malformed: ')}")
    if isinstance(error, UnicodeDecodeError):
        return Poison(f"not UTF-8: {error.reason}")
    return Poison("nested too deeply")


def parse_each(parse: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """`parse` of every item; raises the first item's `Poison` with its index, or one if there are no items."""
    found: list[T] = []
    for index, item in enumerate(items):
        try:
            found.append(parse(item))
        except Poison as error:
            raise error.prefixed(f"[{index}]") from error
    if not found:
        raise Poison("contains no alerts")
    return found


def decode_labels(raw: bytes) -> dict[str, str]:
    """Decodes the labels of an alert. An empty value means that the label is absent, as in Prometheus.

    Raises `Poison` if there are none, too many or too large ones, an empty name, or anything but strings.
    """
    labels = _decode_strings(raw, "labels", MAX_LABELS_BYTES)
    if len(labels) > MAX_LABELS:
        raise Poison(f"{len(labels)} labels, at most {MAX_LABELS}", "labels")
    if "" in labels:
        raise Poison("a label without a name", "labels")
    if "" in labels.values():
        labels = {name: value for name, value in labels.items() if value}
    if not labels:
        raise Poison("no labels")
    return labels


def decode_annotations(raw: bytes) -> dict[str, str]:
    """Decodes the annotations of an alert; raises `Poison` if they are too large or anything but strings."""
    return _decode_strings(raw, "annotations", MAX_ANNOTATIONS_BYTES)


def _decode_strings(raw: bytes, place: str, limit: int) -> dict[str, str]:
    if len(raw) > limit:
        raise Poison(f"{len(raw)} bytes, at most {limit}", place)
    try:
        return decode_json(_strings, raw)
    except Poison as error:
        raise (_first_non_string(raw) or error).prefixed(place) from error


def _first_non_string(raw: bytes) -> Poison | None:
    """The error of the first value that is not a string: msgspec's own error does not name it."""
    try:
        values = decode_json(_values, raw)
    except Poison:
        return None
    for name, value in values.items():
        try:
            decode_json(_string, value)
        except Poison as error:
            return error.prefixed(name if name.isidentifier() and len(name) <= _MAX_NAME else f"[{name[:_MAX_NAME]!r}]")
    return None
