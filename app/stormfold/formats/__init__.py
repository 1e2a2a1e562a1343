"""A record of `alerts` becomes alerts. Its shape says in which format it is; each format has a file here."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

import msgspec
from msgspec import UNSET, Raw, UnsetType

from stormfold.alert import Alert
from stormfold.decoding import DECODE_ERRORS, Poison, decode_json, parse_each, to_poison
from stormfold.formats import alertmanager, cloudevents, kubernetes_event
from stormfold.formats.cloudevents import Wrapping
from stormfold.formats.plain import AlertFields, to_alert
from stormfold.text import escape_surrogates


class _Record(AlertFields, gc=False):
    """Any object: an alert's own fields, read at once, and those that give the other formats away."""

    alerts: list[AlertFields] | UnsetType | None = UNSET
    specversion: Raw | UnsetType = UNSET
    kind: Raw | UnsetType = UNSET
    involved_object: Raw | UnsetType = msgspec.field(name="involvedObject", default=UNSET)
    regarding: Raw | UnsetType = UNSET


_decode_record: Callable[[bytes], _Record | list[_Record]] = msgspec.json.Decoder(_Record | list[_Record]).decode
_values = msgspec.json.Decoder(list[Raw])
_MAY, _MUST = Wrapping.MAY, Wrapping.MUST
"""Taken out once: to look a member up in its class costs as much as to decode a tenth of an alert."""


def parse(value: bytes | None, headers: Sequence[tuple[str, bytes | None]], now: int) -> list[Alert]:
    """The alerts of a record, at least one; `now` is its timestamp (ms). Header names are decoded by `surrogateescape`.

    Raises `Poison` with what is wrong and where, for the record as a whole, if any part of it is not understood.
    What the labels and annotations contain is for `decode_labels` and `decode_annotations` to check.
    """
    for name, _ in headers:
        if (sendable := escape_surrogates(name)) != name:
            raise Poison(f"not UTF-8: the name of a header, here {sendable[:64]}")
    if not value:
        raise Poison("no value")
    return _parse(value, now, cloudevents.wrapping(headers) if headers else _MAY)


def _parse(value: bytes, now: int, wrapping: Wrapping) -> list[Alert]:
    if not value.isascii():
        try:
            value.decode()  # The decoder does not look at the bytes of what it skips or leaves raw.
        except UnicodeDecodeError as error:
            raise Poison(f"not UTF-8: {error.reason} (byte {error.start})") from error
    try:
        record = _decode_record(value)
    except DECODE_ERRORS as error:
        raise to_poison(error, value) from error
    if isinstance(record, list):
        return _parse_list(value, record, now, wrapping)
    if record.specversion is not UNSET:
        return _unwrap(value, now, wrapping)
    if wrapping is _MUST:
        raise Poison("missing", "specversion")
    if record.alerts is not UNSET:
        try:
            return alertmanager.parse_alerts(record.alerts or (), now)
        except Poison as error:
            raise error.prefixed("alerts") from error
    if record.labels is not UNSET:
        return [to_alert(record, now)]
    kind = b"" if record.kind is UNSET else bytes(record.kind)
    if kind in (b'"EventList"', b'"List"'):
        return kubernetes_event.parse_list(value)
    if kind == b'"Event"' or record.involved_object is not UNSET or record.regarding is not UNSET:
        return kubernetes_event.parse_event(value)
    raise Poison("no labels: neither an alert nor anything else that is understood")


def _parse_list(value: bytes, records: list[_Record], now: int, wrapping: Wrapping) -> list[Alert]:
    if wrapping is not _MUST and all(
        record.labels is not UNSET and record.alerts is UNSET and record.specversion is UNSET for record in records
    ):
        return alertmanager.parse_alerts(records, now)
    values = decode_json(_values, value)
    return list(chain.from_iterable(parse_each(partial(_parse_item, now=now, wrapping=wrapping), values)))


def _parse_item(item: Raw, now: int, wrapping: Wrapping) -> list[Alert]:
    return _parse(bytes(item), now, wrapping)


def _unwrap(value: bytes, now: int, wrapping: Wrapping) -> list[Alert]:
    if wrapping is Wrapping.NOT:
        raise Poison("a CloudEvent in a CloudEvent")
    place, data = cloudevents.data(value)
    try:
        return _parse(data, now, Wrapping.NOT)
    except Poison as error:
        raise error.prefixed(place) from error
