"""Verifies the results of a run: every alert is counted once, and every aggregate is the expected one."""

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from stormfold.audit import AuditReport
from stormfold.decoding import Poison
from stormfold.kafka.reader import open_reader
from stormfold.keyed_record import Body
from stormfold.manifest import from_manifest
from stormfold.series import SeriesReader
from stormfold.storm import Aggregate
from tests.chaos.compare import (
    Early,
    Excused,
    Wrong,
    about,
    compare_log,
    compare_sink,
    differences,
    now,
    pattern_of,
    touches,
)
from tests.chaos.expected import Counted
from tests.chaos.incidents import verify_incidents
from tests.chaos.world import World
from tests.support.model import keyed_alerts
from tests.support.pipeline import books, read_topic

MAX_EXCUSED = 0.5
"""Largest share of alerts and of aggregates that may be excused. Early ones are not limited: a short run with a new
partition has few others."""


@dataclass
class Verdict:
    """The result of the verification."""

    books: AuditReport
    alerts: int
    """Alerts in `alerts` that can be parsed."""
    late: int
    storms: int
    """Published aggregates."""
    incidents: int
    """Incidents that they give."""
    written: dict[str, int]
    """Resources in each sink."""
    excused: Excused
    wrong: list[Wrong] = field(default_factory=list)


class Read(NamedTuple):
    """The records of one partition of `alerts`, by offset (from 0)."""

    times: "array[int]"
    alerts: "array[int]"
    content: "array[int]"
    """Checksums of the alerts of each record."""


async def validate(world: World) -> Verdict:
    """Compares the published aggregates and the sinks with the log. Everything must be drained."""
    wrong = [now(complaint) for complaint in world.complaints]
    incidents = await verify_incidents(world.settings)
    wrong += incidents.wrong
    balance = await books(world.settings, world.config_file)
    if not balance.balanced or balance.open:
        wrong.append(now(f"the counts do not match: {balance}", max(0, balance.difference), -balance.difference))
    if balance.incidents is None or not balance.incidents.matches or balance.incidents.late:
        wrong.append(now(f"the audit of incidents: {balance.incidents}"))
    if balance.alerts < world.producer.sent:
        wrong.append(now(f"only {balance.alerts} of {world.producer.sent} acknowledged alerts are in the log"))
    read = await _read(world)
    excused = Excused()
    counted, early, late = await _keyed(world, read, excused, wrong)
    published = await _published(world, wrong)
    wrong += compare_log(world.config, counted, published, early, world.truncated, excused)
    publish = world.config.publish
    wanted = {name: some for name, some in published.items() if some[-1].aggregate_class in publish}
    sinks = {"the folder": {from_manifest(found).name: found for found in _manifests(world.sink)}}
    if world.others:
        sinks["the cluster"] = world.others.gone | world.others.server.storms()
    for sink, found in sinks.items():
        wrong += compare_sink(sink, wanted, found)
    alerts = sum(sum(part.alerts) for part in read.values())
    if excused.alerts > MAX_EXCUSED * alerts or excused.truncated > MAX_EXCUSED * len(published):
        wrong.append(now(f"most was not compared: {excused} of {alerts} alerts and {len(published)} storms"))
    written = {sink: len(found) for sink, found in sinks.items()}
    return Verdict(balance, alerts, late, len(published), incidents.number, written, excused, wrong)


def _manifests(folder: Path) -> Iterator[dict[str, Any]]:
    for path in folder.glob("*.yaml"):
        yield yaml.load(path.read_bytes(), yaml.CSafeLoader)


async def _read(world: World) -> dict[int, Read]:
    result: defaultdict[int, Read] = defaultdict(lambda: Read(array("q"), array("q"), array("q")))
    async with open_reader(world.settings) as tail:
        async for found in tail.read(world.settings.alerts_topic):
            part = result[found.partition]
            assert found.offset == len(part.times), "the log has a hole"
            try:
                # A new reader each time, so that no memo hides an error.
                alerts = SeriesReader(world.config).parse(found.value, found.headers, found.timestamp)
            except Poison:
                alerts = []
            part.times.append(found.timestamp)
            part.alerts.append(len(alerts))
            # There are no silences, so the event time does not change the content.
            content = ((index, _body.decode(one.body), alert.resolved) for index, (one, alert) in enumerate(alerts))
            part.content.append(checksum(content))
    return result


_body = msgspec.msgpack.Decoder(Body)


def checksum(alerts: Iterable[tuple[int, Body, bool]]) -> int:
    """Returns a checksum of a record's alerts (index, body, resolved) in any order. It differs between processes."""
    # Hashes of bytes, because sums of hashes of tuples are often equal if two elements are swapped.
    return sum(hash(msgspec.msgpack.encode(alert)) for alert in alerts) % 2**63


async def _keyed(
    world: World, read: dict[int, Read], excused: Excused, wrong: list[Wrong]
) -> tuple[list[Counted], Early, int]:
    """Compares the keyed topic with `alerts`: each alert is there once, unchanged, and at its time unless it was late.

    Returns the alerts that count, those sent to a partition before it was read, and the number of late ones.
    """
    counted, early, late = [], Early(2 * world.config.windows.slice_length), 0
    seen = {partition: array("q", bytes(8 * len(part.times))) for partition, part in read.items()}
    content = {partition: array("q", bytes(8 * len(part.times))) for partition, part in read.items()}
    tardy, ahead, known = world.producer.tardy, world.producer.ahead, world.producer.known
    shadows = _shadows(read, ahead)
    async for found in keyed_alerts(world.settings):
        time_stamped, body, resolved = found.stamped
        partition, offset, index = found.source
        sent = read[partition].times[offset]
        seen[partition][offset] += 1
        content[partition][offset] = (content[partition][offset] + checksum([(index, body, resolved)])) % 2**63
        late += found.late
        forgiven = (
            (partition, offset) in tardy
            or (partition, offset) in ahead
            or sent < known.get(partition, 0)
            or shadows[partition].reaches(offset, sent)
        )
        if found.late or time_stamped != sent:
            if forgiven:
                excused.alerts += 1
            else:
                wrong.append(
                    Wrong(f"{found.source} was sent at {sent}, but counts at {time_stamped}", sent, time_stamped)
                )
        counted.append(Counted(*found.stamped, found.late))
        if sent < known.get(partition, 0):
            early.add(pattern_of(counted[-1]), sent, known[partition])
    for partition, part in read.items():
        for offset, (time_sent, wanted, got) in enumerate(zip(part.times, part.alerts, seen[partition], strict=True)):
            if wanted != got:
                what = f"{got} of {wanted} alerts of {partition}-{offset} in the keyed topic"
                wrong.append(Wrong(what, time_sent, time_sent, max(0, wanted - got), max(0, got - wanted)))
            elif part.content[offset] != content[partition][offset]:
                what = f"alerts of {partition}-{offset} are different in the keyed topic"
                wrong.append(Wrong(what, time_sent, time_sent, lost=got, double=got))
    return counted, early, late


class _Shadow(NamedTuple):
    """The records of a partition with timestamps in the future, and the latest timestamp so far at each."""

    offsets: list[int]
    latest: list[int]

    def reaches(self, offset: int, sent: int) -> bool:
        """Returns whether a record came behind one with a later timestamp."""
        before = bisect_left(self.offsets, offset)
        return before > 0 and sent < self.latest[before - 1]


def _shadows(read: dict[int, Read], ahead: set[tuple[int, int]]) -> defaultdict[int, _Shadow]:
    found: defaultdict[int, _Shadow] = defaultdict(lambda: _Shadow([], []))
    for partition, offset in sorted(ahead):
        shadow = found[partition]
        shadow.offsets.append(offset)
        shadow.latest.append(max([read[partition].times[offset], *shadow.latest[-1:]]))
    return found


async def _published(world: World, wrong: list[Wrong]) -> dict[str, list[Aggregate]]:
    """Returns all published aggregates. A repeated one must be identical, unless Redis was full."""
    result: defaultdict[str, list[Aggregate]] = defaultdict(list)
    for found in await read_topic(world.settings, world.settings.storms_topic):
        aggregate = from_manifest(msgspec.json.decode(found.value))
        versions = result[aggregate.name]
        if aggregate in versions:
            continue
        if versions and not touches(world.truncated, aggregate):
            changes = differences(aggregate, versions[-1])
            wrong.append(about(aggregate, f"was published again with differences: {changes}"))
        versions.append(aggregate)
    return result
