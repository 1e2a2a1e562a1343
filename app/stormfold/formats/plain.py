"""A single alert: `{labels, annotations, status, startsAt, endsAt, fingerprint, …}`, alone or in a list.

Alertmanager's own alerts are of this form too: in webhooks, in answers of `GET /api/v2/alerts` and in what is posted
there. They differ in how they express that an alert is over.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from stormfold.alert import Alert
from stormfold.decoding import DECODE_ERRORS, Poison
from stormfold.times import to_milliseconds

_ZERO_TIME = datetime(1, 1, 1, tzinfo=UTC)
"""Go's zero time: Alertmanager's "not set"."""
_Time = Annotated[datetime, msgspec.Meta(tz=True)]
_MAX_TIME = 64
"""Characters of a time. The cache of times holds each text."""
_HEX = "0123456789abcdef"
_BRACE = ord("{")
_EMPTY = re.compile(rb'""').search
"""Whether a text may have an empty value. An expression is faster here than `in`."""
_members = msgspec.json.Decoder(dict[str, Raw])

_RESOLVED = {
    "firing": False,
    "resolved": True,
    # GET /api/v2/alerts. A suppressed alert fires without notifications.
    "active": False,
    "suppressed": False,
    "unprocessed": False,
    # Keep.
    "acknowledged": False,
    # Prometheus' and Grafana's rules.
    "alerting": False,
    "inactive": True,
    "normal": True,
    "ok": True,
}
"""The meaning of each word for a status. Other words are refused: a guess could end or begin an alert."""


class Status(msgspec.Struct, gc=False):
    """The status in an answer of `GET /api/v2/alerts`."""

    state: str | None = None


class AlertFields(msgspec.Struct, gc=False):
    """The fields that count. Labels and annotations stay JSON; the other fields of an alert are ignored."""

    labels: Raw | UnsetType = UNSET
    annotations: Raw | UnsetType = UNSET
    status: str | Status | None = None
    state: str | None = None
    # Any type: a time that is not usable never makes an alert a dead letter.
    starts_at: Any = msgspec.field(name="startsAt", default=None)
    ends_at: str | None = msgspec.field(name="endsAt", default=None)
    fingerprint: str | None = None


def to_alert(fields: AlertFields, now: int, group_resolved: bool = False) -> Alert:
    """The alert, at `now` (ms, its record's timestamp); raises `Poison` if its structure is wrong.

    Its status, else its state, decides whether it is resolved. One that has neither, as posted to Alertmanager, is
    resolved if its whole group is, or if `endsAt` is set (not zero) and not after `now`: alerts are posted with an end
    in the future that moves while they fire.
    """
    labels = b"null" if fields.labels is UNSET else bytes(fields.labels)
    if labels[0] != _BRACE:
        raise Poison("no labels") if labels == b"null" else Poison("expected object", "labels")
    annotations = b"null" if fields.annotations is UNSET else bytes(fields.annotations)
    if annotations[0] != _BRACE:
        if annotations != b"null":
            raise Poison("expected object", "annotations")
        annotations = b"{}"
    given = fields.fingerprint
    if given is not None and (len(given) != 16 or given.strip(_HEX)):
        given = None
    # Nearly all alerts have one of two words, which costs no call.
    word = fields.status
    resolved = False if word == "firing" else True if word == "resolved" else _resolved(fields, now, group_resolved)
    start = fields.starts_at
    return Alert(labels, annotations, resolved, given, parse_start(start) if type(start) is str else None)


def is_resolved(word: str, place: str) -> bool:
    """Whether a word for a status means resolved; raises `Poison` for an unknown one."""
    resolved = _RESOLVED.get(word)
    if resolved is None:
        resolved = _RESOLVED.get(word.lower())
    if resolved is None:
        raise Poison(f"expected firing or resolved, got {word[:32]!r}", place)
    return resolved


def parse_start(text: str) -> int | None:
    """Milliseconds since the Unix epoch of an RFC 3339 time; None if it is zero, has no offset or is unreadable."""
    return _parse_start(text) if len(text) <= _MAX_TIME else None


@lru_cache(maxsize=10_000)
def _parse_start(text: str) -> int | None:
    try:
        return max(0, to_milliseconds(msgspec.convert(text, _Time))) or None
    except msgspec.ValidationError:
        return None


def add_labels(raw: bytes, defaults: bytes) -> bytes:
    """The JSON object `raw` with the members of the object `defaults` that it lacks, or has with an empty value."""
    if not raw.startswith(b"{") or not defaults.startswith(b"{"):
        return raw
    if _EMPTY(raw):
        raw = _without_empty(raw, defaults)
    # Of duplicate names the last one counts.
    first, rest = defaults.rstrip().removesuffix(b"}"), raw[1:].lstrip()
    if not first[1:].strip():
        return raw
    return first + (b"" if rest.startswith(b"}") else b",") + rest


def _without_empty(raw: bytes, defaults: bytes) -> bytes:
    """The JSON object `raw` without the empty members that `defaults` has; unchanged if one of them is not valid."""
    try:
        members, names = _members.decode(raw), _members.decode(defaults).keys()
    except DECODE_ERRORS:
        return raw
    kept = {name: value for name, value in members.items() if name not in names or bytes(value) != b'""'}
    return raw if len(kept) == len(members) else msgspec.json.encode(kept)


def _resolved(fields: AlertFields, now: int, group_resolved: bool) -> bool:
    status = fields.status
    if isinstance(status, str):
        return is_resolved(status, "status")
    if status is not None and status.state is not None:
        return is_resolved(status.state, "status.state")
    if fields.state is not None:
        return is_resolved(fields.state, "state")
    return group_resolved or _ended(fields.ends_at, now)


def _ended(ends_at: str | None, now: int) -> bool:
    if not ends_at:
        return False
    try:
        end = msgspec.convert(ends_at, _Time)
    except msgspec.ValidationError as error:
        raise Poison(f"expected a time like 2026-01-01T00:00:00Z, got {ends_at[:32]!r}", "endsAt") from error
    return end != _ZERO_TIME and to_milliseconds(end) <= now
