"""Kubernetes Events, core/v1 and events.k8s.io/v1, as alerts about their object.

A Pod's `BackOff` is `{alertname: BackOff, severity: warning, namespace: …, pod: …, reporting_component: kubelet}`,
and the same alert again each time it repeats. An Event never resolves. Events also come in envelopes: of a watch, and
of eventrouter.
"""

from typing import Any

import msgspec

from stormfold.alert import Alert
from stormfold.decoding import Poison, decode_json, parse_each
from stormfold.formats.plain import parse_start
from stormfold.resource import CLUSTER_SCOPED, RESOURCE_LABELS, TARGET_KINDS, Resource

_LABEL_OF = {kind: label for label, kind in RESOURCE_LABELS if kind not in TARGET_KINDS}
"""Label of an object by its kind. Objects of other kinds have the labels `object_kind` and `object_name`: a label that
is named after any kind could be one that alerts are grouped by, such as `cluster`."""
WATCH_TYPES = {"ADDED", "MODIFIED", "DELETED", "BOOKMARK", "UPDATED"}
"""Types of a watch, and verbs of eventrouter."""
_WITHOUT_ALERT = {"DELETED", "BOOKMARK"}
"""Events are deleted when their time to live has passed, so their deletion is no news."""


class _Object(msgspec.Struct, gc=False, rename="camel"):
    kind: str | None = None
    namespace: str | None = None
    name: str | None = None
    creation_timestamp: Any = None


class _Source(msgspec.Struct, gc=False):
    component: str | None = None


class _Event(msgspec.Struct, gc=False, rename="camel"):
    """Fields of both versions: events.k8s.io has `regarding` and `note` for involvedObject and message of core/v1."""

    kind: str | None = None
    metadata: _Object | None = None
    involved_object: _Object | None = None
    regarding: _Object | None = None
    type: str | None = None
    severity: Any = None
    reason: str | None = None
    message: str | None = None
    note: str | None = None
    reporting_component: str | None = None
    reporting_controller: str | None = None
    source: _Source | None = None
    deprecated_source: _Source | None = None
    cluster_name: str | None = None
    first_timestamp: Any = None
    deprecated_first_timestamp: Any = None
    event_time: Any = None


class _List(msgspec.Struct, gc=False):
    items: list[_Event] | None = None


_event = msgspec.json.Decoder(_Event)
_list = msgspec.json.Decoder(_List)


def parse_event(value: bytes) -> list[Alert]:
    """The alert of an Event; raises `Poison`."""
    return [_to_alert(decode_json(_event, value))]


def parse_watched(value: bytes, change: str) -> list[Alert]:
    """The alert of an Event in an envelope that names the change; none if it is a deletion."""
    return [] if change in _WITHOUT_ALERT else parse_event(value)


def parse_list(value: bytes) -> list[Alert]:
    """The alerts of an EventList, or of a List (as kubectl makes) of only Events; raises `Poison`."""
    events = decode_json(_list, value).items or ()
    try:
        return parse_each(_to_alert, events)
    except Poison as error:
        raise error.prefixed("items") from error


def _to_alert(event: _Event) -> Alert:
    if event.kind not in (None, "Event"):
        raise Poison(f"expected Event, got {event.kind[:32]!r}", "kind")
    about = event.involved_object or event.regarding
    if about is None:
        raise Poison("missing", "involvedObject")
    kind, name, namespace = about.kind or "", about.name or "", _namespace(event, about)
    source = event.source or event.deprecated_source
    label = _LABEL_OF.get(kind)
    labels = (
        ("object_kind", "" if label else kind),
        (label or "object_name", name),
        ("alertname", event.reason),
        ("severity", _severity(event)),
        ("namespace", namespace if kind != "Namespace" else name),
        ("cluster", event.cluster_name),
        (
            "reporting_component",
            event.reporting_component or event.reporting_controller or (source and source.component),
        ),
    )
    summary = event.message or event.note
    return Alert(
        labels=msgspec.json.encode({name: value for name, value in labels if name and value}),
        annotations=msgspec.json.encode({"summary": summary} if summary else {}),
        starts_at=_start(event),
        about=Resource(kind, namespace, name) if kind and name else None,
    )


def _severity(event: _Event) -> str | None:
    if isinstance(event.severity, str) and event.severity:
        return event.severity
    return {"Warning": "warning", "Normal": "info"}.get(event.type or "", event.type)


def _namespace(event: _Event, about: _Object) -> str:
    """The namespace of the object; empty if it has none.

    Events about cluster-scoped objects are kept in the namespace `default`, where nothing has happened.
    """
    if about.kind in CLUSTER_SCOPED and about.kind not in TARGET_KINDS:
        return ""
    own = event.metadata.namespace if event.metadata else None
    return about.namespace or (own if own != "default" or about.kind in _LABEL_OF else None) or ""


def _start(event: _Event) -> int | None:
    created = event.metadata.creation_timestamp if event.metadata else None
    times = (event.first_timestamp, event.deprecated_first_timestamp, event.event_time, created)
    return next((start for time in times if isinstance(time, str) and (start := parse_start(time))), None)
