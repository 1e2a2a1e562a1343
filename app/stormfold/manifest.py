"""The manifest of an aggregate's resource: both conversions, without loss. It is the value of a record of `storms`."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from stormfold.decoding import Malformed, decode_untrusted
from stormfold.scope import IncidentScope
from stormfold.storm import Aggregate
from stormfold.times import format_timestamp, to_milliseconds

API_VERSION = "stormfold.dev/v1alpha1"
KIND = "AlertStorm"
DOMAIN = "stormfold.dev"
SCOPE_ANNOTATION = f"{DOMAIN}/incident"
"""Annotation: `IncidentScope` as JSON."""

_NOT_LABEL_VALUE = re.compile(r"[^A-Za-z0-9._-]+")
_json = msgspec.json.Decoder()
_scope = msgspec.json.Decoder(IncidentScope)


def to_manifest(aggregate: Aggregate) -> dict[str, Any]:
    """The manifest, ready to be applied. Nothing in it depends on the wall clock."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": aggregate.name,
            "namespace": aggregate.namespace,
            "labels": {
                f"{DOMAIN}/class": aggregate.aggregate_class,
                f"{DOMAIN}/route": label_value(aggregate.route),
                f"{DOMAIN}/severity": label_value(aggregate.severity),
                f"{DOMAIN}/last-seen": str(aggregate.last_seen // 1000),
            },
            **encode_scope(aggregate.scope),
        },
        "spec": {
            "class": aggregate.aggregate_class,
            "pattern": aggregate.pattern,
            "route": aggregate.route,
            "groupLabels": aggregate.group_labels,
            "severity": aggregate.severity,
            "alertCount": aggregate.alert_count,
            "distinctAlerts": aggregate.distinct,
            "resolvedAlerts": aggregate.resolved,
            "resourceCount": aggregate.resource_count,
            "affectedResources": [entry.to_builtins() for entry in aggregate.resources],
            "example": msgspec.to_builtins(aggregate.example),
            "firstSeen": format_timestamp(aggregate.first_seen),
            "lastSeen": format_timestamp(aggregate.last_seen),
            "closeReason": aggregate.close_reason,
            "lateAlerts": aggregate.late,
            "truncated": aggregate.truncated,
        },
    }


def from_manifest(manifest: Mapping[str, Any]) -> Aggregate:
    """Reads a manifest back; raises `Malformed` if it is not an aggregate's."""
    try:
        return msgspec.convert(_fields(manifest["metadata"], manifest["spec"]), Aggregate)
    except (LookupError, TypeError, ValueError, AttributeError, msgspec.ValidationError) as error:
        raise Malformed(f"not a storm: {error}") from error


def event_times(manifest: Mapping[str, Any]) -> tuple[int, int]:
    """Event times (ms) of the first and the last alert in a manifest; raises `Malformed` if it has none."""
    try:
        return _event_times(manifest["spec"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Malformed(f"not a storm: {error}") from error


def encode_manifest(aggregate: Aggregate) -> bytes:
    """The manifest as JSON, for the `storms` topic: equal aggregates give equal bytes."""
    return msgspec.json.encode(to_manifest(aggregate))


def decode_manifest(value: bytes | None) -> Aggregate:
    """Reads a record of the `storms` topic; raises `Malformed` if it is not an aggregate."""
    return from_manifest(decode_untrusted(_json.decode, value or b""))


def encode_scope(scope: IncidentScope | None) -> dict[str, dict[str, str]]:
    """The part of a resource's metadata that holds its scope; empty without one."""
    return {} if scope is None else {"annotations": {SCOPE_ANNOTATION: msgspec.json.encode(scope).decode()}}


def decode_scope(metadata: Mapping[str, Any]) -> IncidentScope | None:
    """The scope in the metadata of a resource; None without one. Raises `Malformed` if it is not one."""
    text = (metadata.get("annotations") or {}).get(SCOPE_ANNOTATION)
    return None if text is None else decode_untrusted(_scope.decode, text)


def label_value(text: str) -> str:
    """`text` as a Kubernetes label value: at most 63 of alphanumerics, `-`, `_`, `.`, alphanumeric at both ends."""
    return _NOT_LABEL_VALUE.sub("-", text)[:63].strip("-_.")


def _fields(metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    first_seen, last_seen = _event_times(spec)
    return {
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "aggregate_class": spec["class"],
        "route": spec["route"],
        "group_labels": spec["groupLabels"],
        "pattern": spec["pattern"],
        "severity": spec["severity"],
        "alert_count": spec["alertCount"],
        "distinct": spec["distinctAlerts"],
        "resolved": spec["resolvedAlerts"],
        "resource_count": spec["resourceCount"],
        "resources": [
            {"resource": (entry["kind"], entry.get("namespace", ""), entry["name"]), "alerts": entry["alerts"]}
            for entry in spec["affectedResources"]
        ],
        "example": spec["example"],
        "first_seen": first_seen,
        "last_seen": last_seen,
        "close_reason": spec["closeReason"],
        "late": spec["lateAlerts"],
        "truncated": spec["truncated"],
        "scope": decode_scope(metadata),
    }


def _event_times(spec: Mapping[str, Any]) -> tuple[int, int]:
    first, last = (to_milliseconds(datetime.fromisoformat(spec[name])) for name in ("firstSeen", "lastSeen"))
    return first, last
