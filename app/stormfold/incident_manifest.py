"""The manifest of an incident's resource: both conversions, without loss. Records of `incidents` hold it."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from stormfold.decoding import Malformed, decode_untrusted
from stormfold.incident import Incident
from stormfold.manifest import API_VERSION, DOMAIN, decode_scope, encode_scope, label_value
from stormfold.times import format_timestamp, to_milliseconds

KIND = "AlertIncident"
_RENAMED = {
    "alert_count": "alertCount",
    "resource_count": "resourceCount",
    "first_seen": "firstSeen",
    "last_seen": "lastSeen",
}
"""Fields of list entries by their name in the resource; others have the same name."""
_TIMES = frozenset({"first_seen", "last_seen"})
_json = msgspec.json.Decoder()


def to_manifest(incident: Incident) -> dict[str, Any]:
    """The manifest, ready to be applied. Nothing in it depends on the wall clock."""
    first = {"storm": incident.first_storm, "pattern": incident.first_pattern}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": incident.name,
            "namespace": incident.scope.namespace,
            "labels": {
                f"{DOMAIN}/severity": label_value(incident.severity),
                f"{DOMAIN}/last-seen": str(incident.last_seen // 1000),
            },
            **encode_scope(incident.scope),
        },
        "spec": {
            "labels": incident.scope.labels,
            "severity": incident.severity,
            "alertCount": incident.alert_count,
            "stormCount": incident.storm_count,
            "otherGroupCount": incident.other_group_count,
            "resourceCount": incident.resource_count,
            "startedWith": {**first, "example": msgspec.to_builtins(incident.example)},
            "storms": _encode_list(incident.storms),
            "otherGroups": _encode_list(incident.other_groups),
            "namespaces": _encode_list(incident.namespaces),
            "affectedResources": [entry.to_builtins() for entry in incident.resources],
            "firstSeen": format_timestamp(incident.first_seen),
            "lastSeen": format_timestamp(incident.last_seen),
            "until": format_timestamp(incident.until),
            "closeReason": incident.close_reason,
            **({"continues": incident.continues} if incident.continues else {}),
            "truncated": incident.truncated,
        },
    }


def from_manifest(manifest: Mapping[str, Any]) -> Incident:
    """Reads a manifest back; raises `Malformed` if it is not an incident's."""
    try:
        return msgspec.convert(_fields(manifest["metadata"], manifest["spec"]), Incident)
    except (LookupError, TypeError, ValueError, AttributeError, msgspec.ValidationError) as error:
        raise Malformed(f"not an incident: {error}") from error


def encode_manifest(incident: Incident) -> bytes:
    """The manifest as JSON, for the `incidents` topic: equal incidents give equal bytes."""
    return msgspec.json.encode(to_manifest(incident))


def decode_manifest(value: bytes | None) -> Incident:
    """Reads a record of the `incidents` topic; raises `Malformed` if it is not an incident."""
    return from_manifest(decode_untrusted(_json.decode, value or b""))


def _encode_list(entries: Iterable[msgspec.Struct]) -> list[dict[str, Any]]:
    return [
        {
            _RENAMED.get(name, name): format_timestamp(value) if name in _TIMES else value
            for name, value in msgspec.structs.asdict(entry).items()
        }
        for entry in entries
    ]


def _decode_list(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = {shown: name for name, shown in _RENAMED.items()}
    return [
        {
            names.get(shown, shown): _time(value) if names.get(shown) in _TIMES else value
            for shown, value in entry.items()
        }
        for entry in entries
    ]


def _time(text: str) -> int:
    return to_milliseconds(datetime.fromisoformat(text))


def _fields(metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": metadata["name"],
        "scope": decode_scope(metadata),
        "severity": spec["severity"],
        "alert_count": spec["alertCount"],
        "storm_count": spec["stormCount"],
        "other_group_count": spec["otherGroupCount"],
        "resource_count": spec["resourceCount"],
        "first_storm": spec["startedWith"]["storm"],
        "first_pattern": spec["startedWith"]["pattern"],
        "example": spec["startedWith"]["example"],
        "storms": _decode_list(spec["storms"]),
        "other_groups": _decode_list(spec["otherGroups"]),
        "namespaces": _decode_list(spec["namespaces"]),
        "resources": [
            {"resource": (entry["kind"], entry.get("namespace", ""), entry["name"]), "alerts": entry["alerts"]}
            for entry in spec["affectedResources"]
        ],
        "first_seen": _time(spec["firstSeen"]),
        "last_seen": _time(spec["lastSeen"]),
        "until": _time(spec["until"]),
        "close_reason": spec["closeReason"],
        "continues": spec.get("continues"),
        "truncated": spec["truncated"],
    }
