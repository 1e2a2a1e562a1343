"""Manifests of incidents for tests."""

import json
from typing import Any

NAME = "prod-3f9ac1d27b04e611"
SCOPE = {
    "labels": {"cluster": "prod"},
    "gap": 360000,
    "max": 3600000,
    "namespace": "storms",
    "windowGap": 60000,
    "rank": 0,
}


def manifest(name: str = NAME, last_seen: int = 1767226190, **spec: Any) -> dict[str, Any]:
    """Returns the manifest of an example incident with changed fields of `spec`; `last_seen` is in epoch seconds."""
    example = {"labels": {"node": "worker-7"}, "annotations": {"summary": "Node is not ready"}}
    pattern = '{node="worker-7"}'
    storm = {
        "name": "node-worker-7-541ff8c5505bb443",
        "pattern": pattern,
        "severity": "critical",
        "alertCount": 230,
        "resourceCount": 55,
        "firstSeen": "2026-01-01T00:00:00.000Z",
        "lastSeen": "2026-01-01T00:03:10.412Z",
    }
    return {
        "apiVersion": "stormfold.dev/v1alpha1",
        "kind": "AlertIncident",
        "metadata": {
            "name": name,
            "namespace": "storms",
            "labels": {"stormfold.dev/severity": "critical", "stormfold.dev/last-seen": str(last_seen)},
            "annotations": {"stormfold.dev/incident": json.dumps(SCOPE)},
        },
        "spec": {
            "labels": {"cluster": "prod"},
            "severity": "critical",
            "alertCount": 239,
            "stormCount": 1,
            "otherGroupCount": 1,
            "resourceCount": 55,
            "startedWith": {"storm": storm["name"], "pattern": pattern, "example": example},
            "storms": [storm],
            "otherGroups": [
                {"pattern": 'Watchdog{cluster="prod"}', "alertCount": 9, "firstSeen": "2026-01-01T00:01:00.000Z"}
            ],
            "namespaces": [{"name": "payments", "alerts": 230}],
            "affectedResources": [
                {"kind": "Pod", "namespace": "payments", "name": "api-7d9f-x2x", "alerts": 8},
                {"kind": "Node", "name": "worker-7", "alerts": 3},
            ],
            "firstSeen": "2026-01-01T00:00:00.000Z",
            "lastSeen": "2026-01-01T00:03:10.412Z",
            "until": "2026-01-01T00:03:10.412Z",
            "closeReason": "Quiet",
            "truncated": False,
            **spec,
        },
    }
