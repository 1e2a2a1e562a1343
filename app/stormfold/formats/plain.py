"""A single alert: `{labels, annotations, status, startsAt, endsAt, fingerprint, …}`, alone or in a list.

Alertmanager's own alerts are of this form too: in webhooks, in answers of `GET /api/v2/alerts` and in what is posted
there. They differ in how they say that an alert is over.
"""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Raw, UnsetType

from stormfold.alert import Alert
from stormfold.decoding import Poison
from stormfold.times import to_milliseconds

_ZERO_TIME = datetime(1, 1, 1, tzinfo=UTC)
"""Go's zero time: Alertmanager's "not set"."""
_Time = Annotated[datetime, msgspec.Meta(tz=True)]
_HEX = "0123456789abcdef"

_RESOLVED = {
    "firing": False,
    "resolved": True,
    # GET /api/v2/alerts. A suppressed alert fires, only nobody is told.
    "active": False,
    "suppressed": False,
    "unprocessed": False,
    # Prometheus' and Grafana's rules.
    "alerting": False,
    "inactive": True,
    "normal": True,
    "ok": True,
}
"""What each word for a status means. A word that is not here is refused: a guess could end or begin an alert."""


class Status(msgspec.Struct, gc=False):
    """The status in an answer of `GET /api/v2/alerts`."""

    state: str | None = None


class AlertFields(msgspec.Struct, gc=False):
    """The fields that count. Labels and annotations stay JSON; the rest of an alert is skipped over."""

    labels: Raw | UnsetType = UNSET
    annotations: Raw | UnsetType = UNSET
    status: str | Status | None = None
    state: str | None = None
    ends_at: str | None = msgspec.field(name="endsAt", default=None)
    fingerprint: str | None = None


def to_alert(fields: AlertFields, now: int) -> Alert:
    """The alert, at `now` (ms, its record's timestamp); raises `Poison` if its structure is wrong.

    Its status, else its state, says whether it is resolved. One that has neither, as posted to Alertmanager, is
    resolved if `endsAt` is set (not zero) and not after `now`: alerts are posted with an end in the future that
    moves on for as long as they fire.
    """
    labels = b"null" if fields.labels is UNSET else bytes(fields.labels)
    if not labels.startswith(b"{"):
        raise Poison("no labels") if labels == b"null" else Poison("expected object", "labels")
    annotations = b"null" if fields.annotations is UNSET else bytes(fields.annotations)
    if not annotations.startswith(b"{"):
        if annotations != b"null":
            raise Poison("expected object", "annotations")
        annotations = b"{}"
    given = fields.fingerprint
    if given is not None and (len(given) != 16 or given.strip(_HEX)):
        given = None
    # Nearly all say it in one of two words, which costs no call.
    word = fields.status
    resolved = False if word == "firing" else True if word == "resolved" else _resolved(fields, now)
    return Alert(labels, annotations, resolved, given)


def _resolved(fields: AlertFields, now: int) -> bool:
    word = fields.status
    if isinstance(word, Status):
        word = word.state
    if word is None:
        word = fields.state
    if word is None:
        return _ended(fields.ends_at, now)
    resolved = _RESOLVED.get(word)
    if resolved is None:
        resolved = _RESOLVED.get(word.lower())
    if resolved is None:
        raise Poison(f"expected firing or resolved, got {word[:32]!r}", "status")
    return resolved


def _ended(ends_at: str | None, now: int) -> bool:
    if not ends_at:
        return False
    try:
        end = msgspec.convert(ends_at, _Time)
    except msgspec.ValidationError as error:
        raise Poison(f"expected a time like 2026-01-01T00:00:00Z, got {ends_at[:32]!r}", "endsAt") from error
    return end != _ZERO_TIME and to_milliseconds(end) <= now
