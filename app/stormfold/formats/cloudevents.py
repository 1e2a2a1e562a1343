"""CloudEvents 1.0 on Kafka: structured (the value is the event, as JSON) and binary (`ce_` headers, the value is its
data). What counts is the data: one of the other formats, never a CloudEvent again.
"""

import base64
from collections.abc import Sequence
from enum import Enum

import msgspec
from msgspec import UNSET, Raw, UnsetType

from stormfold.decoding import Poison, decode_json


class Wrapping(Enum):
    """Whether a value is a CloudEvent."""

    MAY = "if it looks like one"
    MUST = "its content type says so"
    NOT = "it is the data of one"


class _Event(msgspec.Struct, gc=False):
    specversion: str
    data: Raw | UnsetType = UNSET
    data_base64: str | None = None


_event = msgspec.json.Decoder(_Event)


def wrapping(headers: Sequence[tuple[str, bytes | None]]) -> Wrapping:
    """What a record's headers say of its value; raises `Poison` for a version that is not understood."""
    given = {name.lower(): content or b"" for name, content in headers}
    if given.get("content-type", b"").lower().startswith(b"application/cloudevents"):
        return Wrapping.MUST
    if "ce_specversion" in given:
        _check(given["ce_specversion"].decode(errors="replace"), "ce_specversion")
        return Wrapping.NOT
    return Wrapping.MAY


def data(value: bytes) -> tuple[str, bytes]:
    """The data of a structured event and the name of the field it is in; raises `Poison`."""
    event = decode_json(_event, value)
    _check(event.specversion, "specversion")
    if event.data_base64 is not None:
        if event.data is not UNSET:
            raise Poison("expected one of data and data_base64, got both")
        try:
            return "data_base64", base64.b64decode(event.data_base64, validate=True)
        except ValueError as error:
            raise Poison("not base64", "data_base64") from error
    if event.data is UNSET:
        raise Poison("missing", "data")
    return "data", bytes(event.data)


def _check(version: str, place: str) -> None:
    if not version.startswith("1."):
        raise Poison(f"expected 1.0, got {version[:32]!r}", place)
