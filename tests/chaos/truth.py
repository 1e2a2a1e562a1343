"""What must hold when the dust has settled, whatever was broken meanwhile."""

import time
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from stormfold.audit import AuditReport
from stormfold.config import Config
from stormfold.decoding import Poison
from stormfold.group import GroupMeta, pattern
from stormfold.kafka.reader import open_reader
from stormfold.keyed_record import Body
from stormfold.manifest import from_manifest
from stormfold.series import SeriesReader
from stormfold.storm import Aggregate
from tests.chaos.expected import Counted, storms
from tests.chaos.world import World
from tests.support.pipeline import books, keyed_alerts, read_topic

Spans = Sequence[tuple[int, int]]
"""Stretches of event time (ms): first and last."""
Versions = Mapping[str, Sequence[Aggregate]]
"""What was published under each name: all that differs, the newest last."""


class Wrong(NamedTuple):
    """Something that must not be."""

    what: str
    begin: int
    """When the alerts that it is about happened (ms)."""
    end: int
    lost: int = 0
    """Alerts."""
    double: int = 0


@dataclass
class Excused:
    """What is not held against a run, because a fault decides it: how much of that there was."""

    alerts: int = 0
    """Alerts that count at another time than was sent: they came late themselves, or after one from the future."""
    early: int = 0
    """Alerts of storms of which only the number of alerts was compared, around the time that a partition was added."""
    crowded: int = 0
    """Storms that tell less than they might, of a time when Redis was full."""


MOST_EXCUSED = 0.5
"""Share of all alerts, and of all storms: where more is excused, a run shows little. Of early ones any number may be: a
short run with a new partition is all around that."""


@dataclass
class Verdict:
    """What was found."""

    books: AuditReport
    alerts: int
    """In `alerts`, understood."""
    late: int
    storms: int
    """Published, by name."""
    written: dict[str, int]
    """Names in each sink."""
    excused: Excused
    wrong: list[Wrong] = field(default_factory=list)


class Read(NamedTuple):
    """What `alerts` holds of one partition, by offset (from 0)."""

    times: "array[int]"
    alerts: "array[int]"
    content: "array[int]"
    """A checksum of what the alerts of a record say."""


async def validate(world: World) -> Verdict:
    """Compares what came out with the log. Everything must be drained."""
    wrong = [now(complaint) for complaint in world.complaints]
    balance = await books(world.settings, world.config_file)
    if not balance.balanced or balance.open:
        wrong.append(now(f"the counts do not match: {balance}", max(0, balance.difference), -balance.difference))
    if balance.alerts < world.producer.sent:
        wrong.append(now(f"only {balance.alerts} of {world.producer.sent} acknowledged alerts are in the log"))
    read = await _read(world)
    excused = Excused()
    counted, early, late = await _keyed(world, read, excused, wrong)
    published = await _published(world, wrong)
    wrong += compare_log(world.config, counted, published, early, world.crowded, excused)
    publish = world.config.publish
    wanted = {name: some for name, some in published.items() if some[-1].aggregate_class in publish}
    sinks = {"the folder": {from_manifest(found).name: found for found in _manifests(world.sink)}}
    if world.others:
        sinks["the cluster"] = world.others.gone | world.others.server.storms()
    for sink, found in sinks.items():
        wrong += compare_sink(sink, wanted, found)
    alerts = sum(sum(part.alerts) for part in read.values())
    if excused.alerts > MOST_EXCUSED * alerts or excused.crowded > MOST_EXCUSED * len(published):
        wrong.append(now(f"most was not compared: {excused} of {alerts} alerts and {len(published)} storms"))
    written = {sink: len(found) for sink, found in sinks.items()}
    return Verdict(balance, alerts, late, len(published), written, excused, wrong)


def compare_sink(sink: str, wanted: Versions, found: Mapping[str, dict[str, Any]]) -> Iterator[Wrong]:
    """Each storm is there as it was published, and nothing else."""
    for name in wanted.keys() | found.keys():
        if name not in wanted:
            yield now(f"{name} is in {sink}, and was not published")
        elif name not in found:
            yield _about(wanted[name][-1], f"is not in {sink}", lost=wanted[name][-1].alert_count)
        elif (there := from_manifest(found[name])) not in wanted[name]:
            yield _about(wanted[name][-1], f"is another one in {sink}: {_differences(there, wanted[name][-1])}")


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
                # A new reader each time: it remembers nothing that might be wrong.
                alerts = SeriesReader(world.config).parse(found.value, found.headers, found.timestamp)
            except Poison:
                alerts = []
            part.times.append(found.timestamp)
            part.alerts.append(len(alerts))
            # There are no silences, so when it counts changes nothing of what an alert says.
            said = ((index, _body.decode(one.body), resolved) for index, (one, resolved) in enumerate(alerts))
            part.content.append(checksum(said))
    return result


_body = msgspec.msgpack.Decoder(Body)


def checksum(alerts: Iterable[tuple[int, Body, bool]]) -> int:
    """Of a record's alerts (index, what each says, whether it is resolved), in any order. Only this process gets it."""
    # Of bytes: the hashes of tuples often add up to the same if two of them change places.
    return sum(hash(msgspec.msgpack.encode(alert)) for alert in alerts) % 2**63


class Early:
    """When alerts of each pattern were sent to a partition that was not read yet. The horizon did not wait for them, so
    in which storm they count is open: around that time only their number is known."""

    def __init__(self, margin: int) -> None:
        self._margin = margin
        self._spans: defaultdict[str, dict[int, int]] = defaultdict(dict)

    def add(self, name: str, sent: int, known: int) -> None:
        """One alert, and when its partition was read."""
        self._spans[name][known] = min(sent, self._spans[name].get(known, sent))

    def touches(self, name: str, first: int, last: int) -> bool:
        """Whether a storm of these times may be another one than the log says."""
        return any(
            sent - self._margin <= last and first <= known + self._margin
            for known, sent in self._spans.get(name, {}).items()
        )

    def __contains__(self, name: str) -> bool:
        return name in self._spans


async def _keyed(
    world: World, read: dict[int, Read], excused: Excused, wrong: list[Wrong]
) -> tuple[list[Counted], Early, int]:
    """The alerts that count, after comparing them with `alerts`: each is there once, says what was sent, and counts at
    its time unless it was late.

    Then those that were sent to a partition before it was read, and how many were late.
    """
    counted, early, late = [], Early(2 * world.config.windows.slice_length), 0
    seen = {partition: array("q", bytes(8 * len(part.times))) for partition, part in read.items()}
    content = {partition: array("q", bytes(8 * len(part.times))) for partition, part in read.items()}
    tardy, ahead, known = world.producer.tardy, world.producer.ahead, world.producer.known
    shadows = _shadows(read, ahead)
    async for found in keyed_alerts(world.settings):
        time_stamped, body, resolved = found.stamped
        partition, offset, index = found.origin
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
                wrong.append(Wrong(f"{found.origin} was sent at {sent}, counts at {time_stamped}", sent, time_stamped))
        counted.append(Counted(*found.stamped, found.late))
        if sent < known.get(partition, 0):
            early.add(_pattern(counted[-1]), sent, known[partition])
    for partition, part in read.items():
        for offset, (time_sent, wanted, got) in enumerate(zip(part.times, part.alerts, seen[partition], strict=True)):
            if wanted != got:
                what = f"{got} of {wanted} alerts of {partition}-{offset} in the keyed topic"
                wrong.append(Wrong(what, time_sent, time_sent, max(0, wanted - got), max(0, got - wanted)))
            elif part.content[offset] != content[partition][offset]:
                what = f"alerts of {partition}-{offset} say something else in the keyed topic"
                wrong.append(Wrong(what, time_sent, time_sent, lost=got, double=got))
    return counted, early, late


@cache
def _named(meta: bytes) -> str:
    return pattern(msgspec.msgpack.decode(meta, type=GroupMeta).labels)


def _pattern(one: Counted) -> str:
    return _named(one.body.meta)


def compare_log(
    config: Config, counted: Iterable[Counted], published: Versions, early: Early, crowded: Spans, excused: Excused
) -> Iterator[Wrong]:
    """What was published is what the log decides, word for word; around `crowded` less may be told apart.

    Adds to what is `excused`.
    """
    by_pattern: defaultdict[str, list[Counted]] = defaultdict(list)
    for one in counted:
        by_pattern[name if (name := _pattern(one)) in early else ""].append(one)
    expected, wanted, found = {}, Counter[str](), Counter[str]()
    for name, some in by_pattern.items():
        for aggregate_name, storm in storms(config, some).items():
            if early.touches(name, storm.first_seen, storm.last_seen):
                wanted[name] += storm.alert_count
            else:
                expected[aggregate_name] = storm
    firm = {}
    for aggregate_name, versions in published.items():
        told = versions[-1]
        if early.touches(told.pattern, told.first_seen, told.last_seen):
            found[told.pattern] += told.alert_count
        else:
            firm[aggregate_name] = versions
    excused.early += wanted.total()
    for aggregate_name in expected.keys() | firm.keys():
        yield from _compare(
            aggregate_name, expected.get(aggregate_name), firm.get(aggregate_name, ()), crowded, excused
        )
    for name in wanted.keys() | found.keys():
        if missing := wanted[name] - found[name]:
            yield now(f"{name} has {found[name]} of {wanted[name]} alerts", max(0, missing), max(0, -missing))


class _Shadow(NamedTuple):
    """Records of a partition whose timestamps lay ahead, and the latest of those so far."""

    offsets: list[int]
    latest: list[int]

    def reaches(self, offset: int, sent: int) -> bool:
        """Whether a record came after one that was stamped later."""
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
    """All that was published. What comes again says the same again, unless Redis had no room for all of it."""
    result: defaultdict[str, list[Aggregate]] = defaultdict(list)
    for found in await read_topic(world.settings, world.settings.storms_topic):
        storm = from_manifest(msgspec.json.decode(found.value))
        versions = result[storm.name]
        if storm in versions:
            continue
        if versions and not _touches(world.crowded, storm):
            differences = _differences(storm, versions[-1])
            wrong.append(_about(storm, f"comes again and says something else: {differences}"))
        versions.append(storm)
    return result


def _compare(
    name: str, expected: Aggregate | None, versions: Sequence[Aggregate], crowded: Spans, excused: Excused
) -> Iterator[Wrong]:
    if not versions:
        assert expected is not None
        yield Wrong(f"{name} is missing", expected.first_seen, expected.last_seen, lost=expected.alert_count)
    elif expected is None:
        yield _about(versions[-1], "should not be", double=versions[-1].alert_count)
    else:
        for said in versions:
            if said.alert_count != expected.alert_count:
                missing = expected.alert_count - said.alert_count
                what = f"should have {expected.alert_count} alerts"
                yield _about(said, what, max(0, missing), max(0, -missing))
            elif said != expected:
                if _touches(crowded, expected) and _cut_short(said, expected):
                    excused.crowded += 1
                else:
                    yield _about(said, f"says something else: {_differences(said, expected)}")


def _touches(spans: Spans, storm: Aggregate) -> bool:
    return any(storm.first_seen <= end and begin <= storm.last_seen for begin, end in spans)


def _cut_short(said: Aggregate, expected: Aggregate) -> bool:
    """Whether it is that storm, with some fingerprints counted that are not listed: lists and what is counted by
    fingerprint are lower bounds then, and what is not listed passes for firing."""
    most = {entry.resource: entry.alerts for entry in expected.resources}
    # One that is not among the listed has no more alerts than the last of those.
    least = expected.resources[-1].alerts if expected.truncated and expected.resources else 0
    same = msgspec.structs.replace(
        said, distinct=expected.distinct, resolved=expected.resolved, resource_count=expected.resource_count,
        resources=expected.resources, storm_class=expected.aggregate_class, truncated=expected.truncated,
    )  # fmt: skip
    return (
        said.truncated
        and same == expected
        and said.aggregate_class in (expected.aggregate_class, "Storm")
        and said.distinct <= expected.distinct
        and said.resource_count <= expected.resource_count
        and all(entry.alerts <= most.get(entry.resource, least) for entry in said.resources)
    )


def _differences(said: Aggregate, expected: Aggregate) -> str:
    found = []
    for name in Aggregate.__struct_fields__:
        one, other = getattr(said, name), getattr(expected, name)
        if name == "resources":
            one, other = ([e for e in mine if e not in others][:5] for mine, others in ((one, other), (other, one)))
        if one != other:
            found.append(f"{name} is {one}, should be {other}")
    return "; ".join(found) or "the order of its resources"


def _about(storm: Aggregate, what: str, lost: int = 0, double: int = 0) -> Wrong:
    text = f"{storm.name} ({storm.alert_count} alerts) {what}"
    return Wrong(text, storm.first_seen, storm.last_seen, lost, double)


def now(what: str, lost: int = 0, double: int = 0) -> Wrong:
    """Something wrong that belongs to no time."""
    moment = time.time_ns() // 1_000_000
    return Wrong(what, moment, moment, lost, double)
