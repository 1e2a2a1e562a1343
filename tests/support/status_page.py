"""Data for the status page."""

from stormfold import incident_manifest
from stormfold.group import GroupMeta
from stormfold.health import Problem
from stormfold.manifest import from_manifest
from stormfold.redis.memory import Memory
from stormfold.redis.open_groups import OpenGroup, TopGroups
from stormfold.status.live import Progress, Source, View
from stormfold.status.open_incidents import OpenIncident
from tests.support import incident_manifests
from tests.support.storms import manifest

NOW = 1_767_225_600_000
EMPTY = View(at=NOW, worker="host: fold", kafka=Source("kafka:9092"), redis=Source("redis://redis:6379/0"))


def filled(text: str) -> tuple[View, list[Problem]]:
    """A page with that text wherever text from outside can appear."""
    meta = GroupMeta(text, {"alertname": text}, "storms", True, 3, 2)
    storm = from_manifest(manifest(text, pattern=text, severity=text))
    incident = incident_manifest.from_manifest(
        incident_manifests.manifest(text, severity=text, startedWith={"storm": text, "pattern": text, "example": {}})
    )
    event = {"timestamp": "2026-01-01T00:00:00Z", "level": text, "logger": text, "event": text, "reason": text}
    view = View(
        at=NOW,
        worker=text,
        kafka=Source(text, NOW, text, text),
        redis=Source(text, NOW, text, text),
        horizon=NOW,
        closed_until=NOW,
        groups=TopGroups(1, 1, (OpenGroup(meta, text, 7, 5, 3, False, NOW - 5_000, NOW),)),
        recent=[(storm, False)],
        incidents=[(incident, False)],
        open_incidents=[OpenIncident(text, text, text, 7, 5, 3, text, NOW - 5_000, NOW)],
        stages={"intake": {0: Progress(3, NOW)}},
        memory=Memory(used=1, maximum=2, fragmentation=1.0, evicted=0, policy="noeviction"),
        events=[event],
    )
    return view, [Problem(text, text, NOW / 1000, text)]
