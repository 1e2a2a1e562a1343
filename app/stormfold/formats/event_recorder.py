"""Alertmanager's event recorder, which can write to Kafka (0.33 and later): both schemas of its JSON output.

`alertCreated` fires, `alertResolved` resolves; all other events (notifications, silences, …) hold no alerts. Schema
v1 has labels as a list of pairs, v2 (0.35 and later) as an object.
"""

import msgspec
from msgspec import UNSET, Raw, UnsetType

from stormfold.alert import Alert
from stormfold.decoding import Poison, decode_json
from stormfold.formats.plain import parse_start

KEYS = {"@timestamp", "instance", "data", "clusterPosition"}
"""All keys of an event."""
_MAX_FINGERPRINT = 2**64


class _Pair(msgspec.Struct, gc=False):
    key: str = ""
    value: str = ""


class _Pairs(msgspec.Struct, gc=False):
    labels: list[_Pair] = []


class _Alert(msgspec.Struct, gc=False, rename="camel"):
    fingerprint: str | int = 0
    labels: Raw | UnsetType = UNSET
    annotations: Raw | UnsetType = UNSET
    starts_at: str = ""
    resolved: bool = False


class _Reference(_Alert, gc=False, rename="camel"):
    """An alert, or an object that has it as its `details`."""

    details: _Alert | None = None


class _Event(msgspec.Struct, gc=False):
    alert: _Reference | None = None


class _Data(msgspec.Struct, gc=False, rename="camel"):
    alert_created: _Event | None = None
    alert_resolved: _Event | None = None


_data = msgspec.json.Decoder(_Data)
_pairs = msgspec.json.Decoder(_Pairs)
_raw_values = msgspec.json.Decoder(dict[str, Raw])


def parse_data(raw: bytes) -> list[Alert]:
    """The alert of an event, by its `data`; none if it is another event. Raises `Poison`."""
    data = decode_json(_data, raw)
    if data.alert_created is not None:
        return [_to_alert(data.alert_created, "alertCreated", False)]
    if data.alert_resolved is not None:
        return [_to_alert(data.alert_resolved, "alertResolved", True)]
    return []


def _to_alert(event: _Event, place: str, resolved: bool) -> Alert:
    found = event.alert
    alert: _Alert | None = found.details if found is not None and found.details is not None else found
    if alert is None or alert.labels is UNSET:
        raise Poison("no labels", f"{place}.alert")
    try:
        return Alert(
            labels=_to_object(bytes(alert.labels), "labels"),
            annotations=b"{}" if alert.annotations is UNSET else _to_object(bytes(alert.annotations), "annotations"),
            resolved=resolved or alert.resolved,
            fingerprint=_to_hex(alert.fingerprint),
            starts_at=parse_start(alert.starts_at),
        )
    except Poison as error:
        raise error.prefixed(f"{place}.alert") from error


def _to_object(raw: bytes, place: str) -> bytes:
    """Labels or annotations of either schema as a JSON object."""
    try:
        inner = decode_json(_raw_values, raw).get("labels")
        if inner is None or not bytes(inner).startswith(b"["):
            return raw
        return msgspec.json.encode({pair.key: pair.value for pair in decode_json(_pairs, raw).labels})
    except Poison as error:
        raise error.prefixed(place) from error


def _to_hex(fingerprint: str | int) -> str | None:
    """The 16 hex digits of a fingerprint that is written as a number; None if it is not one."""
    try:
        number = int(fingerprint)
    except ValueError:
        return None
    return f"{number:016x}" if 0 < number < _MAX_FINGERPRINT else None
