"""CloudEvents 1.0 on Kafka: structured (the value is the event, as JSON) and binary (`ce_` headers, the value is its
data). The data counts: one of the other formats, but never another CloudEvent.
"""

import base64
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from stormfold.decoding import Poison, decode_json


class Wrapping(Enum):
    """Whether a value is a CloudEvent."""

    MAY = "if it looks like one"
    MUST = "its content type requires it"
    NOT = "it is the data of one"
    DELETED = "it is the data of one that reports that an object was deleted"


class Content(NamedTuple):
    """The data of an event."""

    place: str
    """Name of the field that holds it."""
    data: bytes
    deleted: bool
    """Whether the event reports that the object in its data was deleted."""


class _Event(msgspec.Struct, gc=False):
    specversion: str
    type: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    data_base64: str | None = None


_event = msgspec.json.Decoder(_Event)


def wrapping(headers: Sequence[tuple[str, bytes | None]]) -> Wrapping:
    """Whether the headers make the value a CloudEvent; raises `Poison` for a version that is not understood."""
    given = {name.lower(): content or b"" for name, content in headers}
    if given.get("content-type", b"").lower().startswith(b"application/cloudevents"):
        return Wrapping.MUST
    if "ce_specversion" in given:
        _check(given["ce_specversion"].decode(errors="replace"), "ce_specversion")
        return Wrapping.DELETED if _is_deletion(given.get("ce_type", b"")) else Wrapping.NOT
    return Wrapping.MAY


def unwrap(value: bytes) -> Content:
    """The data of a structured event; raises `Poison`."""
    event = decode_json(_event, value)
    _check(event.specversion, "specversion")
    deleted = event.type is not UNSET and _is_deletion(bytes(event.type).strip(b'"'))
    if event.data_base64 is not None:
        if event.data is not UNSET:
            raise Poison("expected one of data and data_base64, got both")
        try:
            return Content("data_base64", base64.b64decode(event.data_base64, validate=True), deleted)
        except ValueError as error:
            raise Poison("not base64", "data_base64") from error
    if event.data is UNSET:
        raise Poison("missing", "data")
    return Content("data", bytes(event.data), deleted)


def _is_deletion(type_: bytes) -> bool:
    """Whether an event of Knative's ApiServerSource reports a deletion: an Event's time to live has passed."""
    return type_.startswith(b"dev.knative.apiserver.") and type_.endswith(b".delete")


def _check(version: str, place: str) -> None:
    if not version.startswith("1."):
        raise Poison(f"expected 1.0, got {version[:32]!r}", place)
