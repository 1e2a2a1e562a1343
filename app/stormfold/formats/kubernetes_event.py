"""Kubernetes Events, core/v1 and events.k8s.io/v1, as alerts: the object becomes the label that names its kind.

A Pod's `BackOff` is `{alertname: BackOff, severity: warning, namespace: …, pod: …, reporting_component: kubelet}`,
and the same alert again each time it repeats. An event never resolves.
"""

import msgspec

from stormfold.alert import Alert
from stormfold.decoding import Poison, decode_json, parse_each
from stormfold.resource import CLUSTER_SCOPED, RESOURCE_LABELS

_LABEL_OF = {kind: label for label, kind in RESOURCE_LABELS}


class _Object(msgspec.Struct, gc=False):
    kind: str | None = None
    namespace: str | None = None
    name: str | None = None


class _Source(msgspec.Struct, gc=False):
    component: str | None = None


class _Event(msgspec.Struct, gc=False, rename="camel"):
    """Both versions' fields: what core/v1 calls involvedObject and message, events.k8s.io calls regarding and note."""

    kind: str | None = None
    metadata: _Object | None = None
    involved_object: _Object | None = None
    regarding: _Object | None = None
    type: str | None = None
    reason: str | None = None
    message: str | None = None
    note: str | None = None
    reporting_component: str | None = None
    reporting_controller: str | None = None
    source: _Source | None = None
    deprecated_source: _Source | None = None


class _List(msgspec.Struct, gc=False):
    items: list[_Event] | None = None


_event = msgspec.json.Decoder(_Event)
_list = msgspec.json.Decoder(_List)


def parse_event(value: bytes) -> list[Alert]:
    """The alert of an Event; raises `Poison`."""
    return [_to_alert(decode_json(_event, value))]


def parse_list(value: bytes) -> list[Alert]:
    """The alerts of an EventList, or of a List (as kubectl makes) of nothing but Events; raises `Poison`."""
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
    kind = about.kind or ""
    # Not for those that live in none: events about them are kept in "default", where nothing has happened.
    namespace = None if kind in CLUSTER_SCOPED else about.namespace or (event.metadata and event.metadata.namespace)
    source = event.source or event.deprecated_source
    labels = (
        (_LABEL_OF.get(kind, kind.lower()), about.name),
        ("alertname", event.reason),
        ("severity", {"Warning": "warning", "Normal": "info"}.get(event.type or "", event.type)),
        ("namespace", namespace),
        (
            "reporting_component",
            event.reporting_component or event.reporting_controller or (source and source.component),
        ),
    )
    summary = event.message or event.note
    return Alert(
        labels=msgspec.json.encode({name: value for name, value in labels if name and value}),
        annotations=msgspec.json.encode({"summary": summary} if summary else {}),
    )
