"""The incidents that are open, as the worker that correlates has announced them, also without an Alertmanager."""

from collections.abc import Sequence
from dataclasses import dataclass

from stormfold.announce.notice import Firing
from stormfold.redis.store import Store


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """An incident that is announced and not final. All counts are as of its last announcement."""

    name: str
    """The name that its resource will have, unless an earlier storm joins it."""
    namespace: str
    severity: str
    alert_count: int
    storm_count: int
    resource_count: int
    first_pattern: str
    first_seen: int
    """Event time of its first alert (ms)."""
    last_seen: int
    """Event time of its last alert (ms)."""


async def open_incidents(store: Store) -> Sequence[OpenIncident]:
    """The announced incidents, the latest first. Raises `Retry` or `ActionRequired`."""
    found = [Firing.decode(value) for value in (await store.announced()).values()]
    return sorted(map(_open_incident, filter(None, found)), key=lambda one: (-one.last_seen, one.name))


def _open_incident(firing: Firing) -> OpenIncident:
    annotations = firing.annotations
    return OpenIncident(
        name=annotations["incident"],
        namespace=annotations["namespace"],
        severity=firing.severity,
        alert_count=int(annotations["alerts"]),
        storm_count=int(annotations["storms"]),
        resource_count=int(annotations["resources"]),
        first_pattern=annotations["startedWith"],
        first_seen=firing.starts_at,
        last_seen=firing.last,
    )
