"""Storm manifests for tests."""

from typing import Any

NAME = "kubepodcrashlooping-3f9ac1d27b04e611"


def manifest(name: str = NAME, last_seen: int = 1767225790, **spec: Any) -> dict[str, Any]:
    """Returns the manifest of an example storm with changed fields of `spec`; `last_seen` is in epoch seconds."""
    return {
        "apiVersion": "stormfold.dev/v1alpha1",
        "kind": "AlertStorm",
        "metadata": {
            "name": name,
            "namespace": "storms",
            "labels": {
                "stormfold.dev/class": "Storm",
                "stormfold.dev/route": "default",
                "stormfold.dev/severity": "critical",
                "stormfold.dev/last-seen": str(last_seen),
            },
        },
        "spec": {
            "class": "Storm",
            "pattern": 'KubePodCrashLooping{cluster="prod"}',
            "route": "default",
            "groupLabels": {"alertname": "KubePodCrashLooping", "cluster": "prod"},
            "severity": "critical",
            "alertCount": 412,
            "distinctAlerts": 57,
            "resolvedAlerts": 12,
            "resourceCount": 2,
            "affectedResources": [
                {"kind": "Pod", "namespace": "payments", "name": "api-7d9f-x2x", "alerts": 8},
                {"kind": "Node", "name": "node-7", "alerts": 3},
            ],
            "example": {"labels": {"pod": "api-7d9f-x2x"}, "annotations": {"summary": "Pod is crash looping"}},
            "firstSeen": "2026-01-01T00:00:00.000Z",
            "lastSeen": "2026-01-01T00:03:10.412Z",
            "closeReason": "Inactivity",
            "lateAlerts": 0,
            "truncated": False,
            **spec,
        },
    }


AWKWARD = [
    *(
        "1e3",
        "12e45678",
        "0o17",
        "0x1F",
        "1_000",
        "1:30",
        ".5",
        "+1",
        "y",
        "No",
        "null",
        "~",
        "",
        " ",
        "=",
        "<<",
        "true",
    ),
    *(
        "-",
        "- x",
        "#c",
        "a: b",
        "a #b",
        "{}",
        "[",
        "*a",
        "&a",
        "!a",
        "%a",
        "@a",
        "`a",
        "'",
        '"',
        "\\",
        " lead",
        "trail ",
    ),
    *("a\nb", "a\r\nb", "\t", "2026-01-01", "...", "---", "\x85", "\u2028", "\ufeff", "\x7f", "\x1b[31m", "x" * 1024),
    *("é", "日本語", "🔥🚒"),
]
"""Strings that some YAML parser reads as another type, or that some writer corrupts."""
