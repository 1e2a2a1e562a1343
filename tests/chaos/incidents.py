"""Compares incidents with those that the published storms give: by a plain model, and word for word."""

from collections.abc import Iterator
from typing import NamedTuple

from stormfold.correlation import incidents_of
from stormfold.incident import Incident
from stormfold.incident_manifest import decode_manifest, encode_manifest
from stormfold.kafka.committed import newest_closed_before, read_committed
from stormfold.manifest import decode_manifest as decode_storm
from stormfold.settings import Settings
from stormfold.storm import Aggregate
from tests.chaos.compare import Wrong
from tests.support.incidents import plain
from tests.support.pipeline import read_topic
from tests.support.servers import until

FINAL_SECONDS = 120.0
"""Longest wait until all incidents are final."""


class Incidents(NamedTuple):
    """What was published."""

    number: int
    wrong: list[Wrong]


async def verify_incidents(settings: Settings) -> Incidents:
    """Waits until every incident is final, and compares them. Everything must be drained."""
    records = sorted(await read_topic(settings, settings.storms_topic), key=lambda record: record.timestamp)
    firsts: dict[str, Aggregate] = {}
    for record in records:
        firsts.setdefault(record.key.decode(), decode_storm(record.value))
    wanted = incidents_of(firsts.values())
    end = max((one.last_seen + one.scope.gap for one in wanted), default=0)

    async def final() -> bool:
        committed = await read_committed(settings, settings.consumer_group("correlate"), settings.storms_topic)
        return (newest_closed_before(committed) or 0) > end

    await until(final, FINAL_SECONDS, "every incident is final")
    published = [record.value for record in await read_topic(settings, settings.incidents_topic)]
    return Incidents(len(wanted), list(compare(list(firsts.values()), published)))


def compare(storms: list[Aggregate], published: list[bytes]) -> Iterator[Wrong]:
    """Yields an error for each incident that is missing, different, published with two contents, or not explained."""
    found: dict[str, set[bytes]] = {}
    for value in published:
        found.setdefault(decode_manifest(value).name, set()).add(value)
    wanted = {one.name: one for one in incidents_of(storms)}
    for one in plain(storms):
        twin = wanted.get(one.name)
        counts = twin and (twin.storm_count, twin.other_group_count, twin.alert_count, twin.first_seen, twin.until)
        if counts != (len(one.storms), len(one.others), one.alerts, one.first, one.until):
            yield Wrong(f"incident {one.name} is not that of the plain model: {one}", one.first, one.last, incidents=1)
    for name in wanted.keys() | found.keys():
        if name not in found:
            yield _about(wanted[name], "is missing")
        elif len(found[name]) > 1:
            yield _about(decode_manifest(next(iter(found[name]))), "was published with two contents")
        elif name not in wanted:
            yield _about(decode_manifest(next(iter(found[name]))), "should not exist")
        elif found[name] != {encode_manifest(wanted[name])}:
            (value,) = found[name]
            yield _about(wanted[name], f"differs: {_differences(decode_manifest(value), wanted[name])}")


def _differences(actual: Incident, expected: Incident) -> str:
    found = []
    for name in Incident.__struct_fields__:
        one, other = getattr(actual, name), getattr(expected, name)
        if one != other:
            found.append(f"{name} is {str(one)[:300]}, should be {str(other)[:300]}")
    return "; ".join(found) or "the order of its fields"


def _about(incident: Incident, what: str) -> Wrong:
    text = f"incident {incident.name} ({incident.storm_count} storms, {incident.alert_count} alerts) {what}"
    return Wrong(text, incident.first_seen, incident.last_seen, incidents=1)
