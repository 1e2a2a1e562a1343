"""A record of `alerts` becomes alerts. Its shape decides its format; each format has a file here."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

import msgspec
from msgspec import UNSET, Raw, UnsetType

from stormfold.alert import Alert
from stormfold.decoding import (
    DECODE_ERRORS,
    Poison,
    decode_annotations,
    decode_json,
    decode_labels,
    parse_each,
    to_poison,
)
from stormfold.formats import alertmanager, cloudevents, event_recorder, kubernetes_event
from stormfold.formats.cloudevents import Wrapping
from stormfold.formats.mappings import Mappings, decode_record
from stormfold.formats.plain import AlertFields, add_labels, to_alert
from stormfold.formats.refusal import refuse
from stormfold.text import escape_surrogates


class _Record(AlertFields, gc=False):
    """Any object: an alert's own fields, decoded at once, and those that identify the other formats."""

    alerts: list[AlertFields] | UnsetType | None = UNSET
    specversion: Raw | UnsetType = UNSET
    kind: Raw | UnsetType = UNSET
    involved_object: Raw | UnsetType = msgspec.field(name="involvedObject", default=UNSET)
    regarding: Raw | UnsetType = UNSET
    severity: Raw | UnsetType = UNSET
    truncated_alerts: Raw | UnsetType = msgspec.field(name="truncatedAlerts", default=UNSET)


_decode_record: Callable[[bytes], _Record | list[_Record]] = msgspec.json.Decoder(_Record | list[_Record]).decode
_items = msgspec.json.Decoder(list[Raw])
_members = msgspec.json.Decoder(dict[str, Raw])
_MAX_DIGITS = 10
"""Digits of a number of alerts that is certainly wrong."""
_MAY, _MUST = Wrapping.MAY, Wrapping.MUST
"""Looked up once: to look up a member of the class costs as much as to decode a tenth of an alert."""
_PRESETS = Mappings()
_NAMED = b'"alertname"'
_ALERT_KEYS = {"annotations", "status", "state", "startsAt", "endsAt", "generatorURL", "fingerprint"}
"""Fields of an alert, any of which makes an object with labels an alert."""


def parse(
    value: bytes | None, headers: Sequence[tuple[str, bytes | None]], now: int, mappings: Mappings = _PRESETS
) -> list[Alert]:
    """The alerts of a record; `now` is its timestamp (ms). Header names are decoded by `surrogateescape`.

    A record of no built-in format is read by the first of `mappings` that matches it.

    The list is empty if the record is understood but reports no alert, such as the deletion of an Event. Raises
    `Poison` for the whole record, with the place and the reason, if any part of it is not understood. The contents of
    labels and annotations are checked by `check_contents`, or when they are decoded.
    """
    for name, _ in headers:
        if (sendable := escape_surrogates(name)) != name:
            raise Poison(f"not UTF-8: the name of a header, here {sendable[:64]}")
    if not value:
        raise Poison("no value")
    if not headers:
        return _parse(value, now, _MAY, mappings)
    wrapping = cloudevents.wrapping(headers)
    return [] if wrapping is Wrapping.DELETED else _parse(value, now, wrapping, mappings)


def check_contents(alerts: Sequence[Alert]) -> None:
    """Raises `Poison` for the first alert with labels or annotations that intake would refuse."""
    for index, alert in enumerate(alerts):
        try:
            decode_labels(alert.labels)
            decode_annotations(alert.annotations)
        except Poison as error:
            raise (error if len(alerts) == 1 else error.prefixed(f"[{index}]")) from None


def _parse(value: bytes, now: int, wrapping: Wrapping, mappings: Mappings) -> list[Alert]:
    if not value.isascii():
        try:
            value.decode()  # The decoder does not look at the bytes of fields that it skips or leaves raw.
        except UnicodeDecodeError as error:
            raise Poison(f"not UTF-8: {error.reason} (byte {error.start})") from error
    try:
        record = _decode_record(value)
    except DECODE_ERRORS as error:
        return _parse_mistyped(value, now, wrapping, mappings, to_poison(error, value))
    if isinstance(record, list):
        return _parse_list(value, record, now, wrapping, mappings)
    if record.specversion is not UNSET:
        return _unwrap(value, now, wrapping, mappings)
    if wrapping is _MUST:
        raise Poison("missing", "specversion")
    if record.alerts is not UNSET:
        try:
            alerts = alertmanager.parse_webhook(value, record.alerts or [], record.status, now)
        except Poison as error:
            raise error.prefixed("alerts") from error
        return alerts if record.truncated_alerts is UNSET else _with_left_out(alerts, bytes(record.truncated_alerts))
    if record.labels is not UNSET:
        try:
            alert = to_alert(record, now)
        except Poison as error:
            return _parse_mapped(value, now, mappings, error)
        # Prometheus and Alertmanager sort labels, so the name is the first.
        if alert.labels[1:12] == _NAMED or _NAMED in alert.labels or _is_alert(value):
            return [alert if record.severity is UNSET else _with_severity(alert, record.severity)]
    kind = b"" if record.kind is UNSET else bytes(record.kind)
    if kind in (b'"EventList"', b'"List"'):
        return kubernetes_event.parse_list(value)
    if kind == b'"Event"' or record.involved_object is not UNSET or record.regarding is not UNSET:
        return kubernetes_event.parse_event(value)
    return _parse_envelope(value, now, mappings)


def _with_severity(alert: Alert, severity: Raw) -> Alert:
    """An alert with the severity that is next to its labels, if they have none."""
    if not bytes(severity).startswith(b'"'):
        return alert
    labels = add_labels(alert.labels, b'{"severity":%b}' % bytes(severity))
    return msgspec.structs.replace(alert, labels=labels)


def _with_left_out(alerts: list[Alert], truncated: bytes) -> list[Alert]:
    """The alerts of a webhook with the number of those that the sender left out of it (Alertmanager's `max_alerts`)."""
    if truncated.isdigit() and truncated != b"0" and len(truncated) < _MAX_DIGITS:
        alerts[0] = msgspec.structs.replace(alerts[0], left_out=int(truncated))
    return alerts


def _is_alert(value: bytes) -> bool:
    """Whether an object with labels, none of which is the alert's name, is an alert: logs have labels too.

    A `name` next to the labels shows that it is another product's alert, whose labels are not those of Prometheus.
    """
    keys = decode_json(_members, value).keys()
    return "name" not in keys and not keys.isdisjoint(_ALERT_KEYS)


def _parse_envelope(value: bytes, now: int, mappings: Mappings) -> list[Alert]:
    """The alerts of an object that contains another format or is mapped; raises `Poison` if nothing reads it."""
    members = {name: bytes(raw) for name, raw in decode_json(_members, value).items()}
    for inner, change in (("object", "type"), ("event", "verb")):
        word = members.get(change, b"").strip(b'"').decode(errors="replace")
        if inner in members and word in kubernetes_event.WATCH_TYPES:
            return _prefixed(inner, partial(kubernetes_event.parse_watched, change=word), members)
    data = members.get("data", b"")
    is_answer = members.get("status") == b'"success"'
    if is_answer and data.startswith(b"["):
        return _prefixed("data", partial(alertmanager.parse_api_v1, now=now), members)
    if data.startswith(b"{"):
        keys = decode_json(_members, data).keys()
        if "alerts" in keys:
            return _prefixed("data", partial(alertmanager.parse_rule_alerts, now=now), members)
        if "@timestamp" in members and members.keys() <= event_recorder.KEYS and len(keys) == 1:
            return _prefixed("data", event_recorder.parse_data, members)
    return _parse_mapped(value, now, mappings, refuse(members))


def _parse_mapped(value: bytes, now: int, mappings: Mappings, refusal: Poison) -> list[Alert]:
    """The alerts of an object by the first mapping that matches; raises `refusal` if none does."""
    record = decode_record(value, refusal)
    mapping = mappings.find(record)
    if mapping is None:
        raise refusal
    return mapping.parse(record, lambda inner: _parse(inner, now, _MAY, mappings.inside()))


def _prefixed(place: str, parse: Callable[[bytes], list[Alert]], members: dict[str, bytes]) -> list[Alert]:
    try:
        return parse(members[place])
    except Poison as error:
        raise error.prefixed(place) from error


def _parse_mistyped(value: bytes, now: int, wrapping: Wrapping, mappings: Mappings, error: Poison) -> list[Alert]:
    """The alerts of a value in which a field of `_Record` has another type: another format may use its name."""
    is_list = value.lstrip().startswith(b"[")
    try:
        items = decode_json(_items, value) if is_list else []
        members = {} if is_list else decode_json(_members, value)
    except Poison:
        raise error from None
    if is_list:
        return _parse_items(items, now, wrapping, mappings)
    labels = bytes(members.get("labels", b""))
    if "alerts" in members or "specversion" in members or b'"alertname"' in labels or wrapping is _MUST:
        raise error
    if not members.keys().isdisjoint(("involvedObject", "regarding")):
        return kubernetes_event.parse_event(value)
    return _parse_envelope(value, now, mappings)


def _parse_list(value: bytes, records: list[_Record], now: int, wrapping: Wrapping, mappings: Mappings) -> list[Alert]:
    if wrapping is not _MUST and (alerts := _parse_plain(records, now)):
        return alerts
    items = decode_json(_items, value)
    return _parse_items(items, now, wrapping, mappings)


def _parse_plain(records: list[_Record], now: int) -> list[Alert]:
    """The alerts of a list of plain alerts with names; empty if one of them is wrong or of another format."""
    alerts = []
    try:
        for record in records:
            if (
                record.labels is UNSET
                or record.alerts is not UNSET
                or record.specversion is not UNSET
                or record.severity is not UNSET
            ):
                return []
            alert = to_alert(record, now)
            if alert.labels[1:12] != _NAMED and _NAMED not in alert.labels:
                return []
            alerts.append(alert)
    except Poison:
        return []
    return alerts


def _parse_items(items: Sequence[Raw], now: int, wrapping: Wrapping, mappings: Mappings) -> list[Alert]:
    def parse_item(item: Raw) -> list[Alert]:
        if not bytes(item).startswith(b"{"):
            decode_json(_members, item)
        return _parse(bytes(item), now, wrapping, mappings)

    return list(chain.from_iterable(parse_each(parse_item, items)))


def _unwrap(value: bytes, now: int, wrapping: Wrapping, mappings: Mappings) -> list[Alert]:
    if wrapping is Wrapping.NOT:
        raise Poison("a CloudEvent in a CloudEvent")
    content = cloudevents.unwrap(value)
    if content.deleted:
        return []
    try:
        return _parse(content.data, now, Wrapping.NOT, mappings)
    except Poison as error:
        raise error.prefixed(content.place) from error
