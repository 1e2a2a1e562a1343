"""Verifies the results of a run: every alert is counted once, and every aggregate is the expected one."""

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
from tests.chaos.expected import Counted, expected_aggregates
from tests.chaos.world import World
from tests.support.model import keyed_alerts
from tests.support.pipeline import books, read_topic

Spans = Sequence[tuple[int, int]]
"""Spans of event time (ms): first and last."""
Versions = Mapping[str, Sequence[Aggregate]]
"""The different aggregates that were published under each name, the newest last."""


class Wrong(NamedTuple):
    """An error."""

    what: str
    begin: int
    """Time (ms) of the first affected alert; `end` is that of the last."""
    end: int
    lost: int = 0
    """Alerts that are missing; `double` is the number of alerts counted twice."""
    double: int = 0


@dataclass
class Excused:
    """How much was not compared, because faults decide it."""

    alerts: int = 0
    """Alerts with another event time than their timestamp: they arrived late, or behind one from the future."""
    early: int = 0
    """Alerts of groups of which only the number of alerts was compared, around the time that a partition was added."""
    truncated: int = 0
    """Aggregates with less detail than expected, from a time when Redis was full."""


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
    balance = await books(world.settings, world.config_file)
    if not balance.balanced or balance.open:
        wrong.append(now(f"the counts do not match: {balance}", max(0, balance.difference), -balance.difference))
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
    return Verdict(balance, alerts, late, len(published), written, excused, wrong)


def compare_sink(sink: str, wanted: Versions, found: Mapping[str, dict[str, Any]]) -> Iterator[Wrong]:
    """Yields an error for each storm that is missing, different, or not published."""
    for name in wanted.keys() | found.keys():
        if name not in wanted:
            yield now(f"{name} is in {sink}, but was not published")
        elif name not in found:
            yield _about(wanted[name][-1], f"is not in {sink}", lost=wanted[name][-1].alert_count)
        elif (there := from_manifest(found[name])) not in wanted[name]:
            yield _about(wanted[name][-1], f"differs in {sink}: {_differences(there, wanted[name][-1])}")


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
            content = ((index, _body.decode(one.body), resolved) for index, (one, resolved) in enumerate(alerts))
            part.content.append(checksum(content))
    return result


_body = msgspec.msgpack.Decoder(Body)


def checksum(alerts: Iterable[tuple[int, Body, bool]]) -> int:
    """Returns a checksum of a record's alerts (index, body, resolved) in any order. It differs between processes."""
    # Hashes of bytes, because sums of hashes of tuples are often equal if two elements are swapped.
    return sum(hash(msgspec.msgpack.encode(alert)) for alert in alerts) % 2**63


class Early:
    """The times at which alerts of each pattern were sent to a partition that was not read yet.

    The horizon did not wait for them, so their aggregate is not determined: only their number is compared.
    """

    def __init__(self, margin: int) -> None:
        self._margin = margin
        self._spans: defaultdict[str, dict[int, int]] = defaultdict(dict)

    def add(self, name: str, sent: int, known: int) -> None:
        """Adds one alert, and the time from which on its partition was read."""
        self._spans[name][known] = min(sent, self._spans[name].get(known, sent))

    def touches(self, name: str, first: int, last: int) -> bool:
        """Returns whether an aggregate of these times may differ from the one that the log decides."""
        return any(
            sent - self._margin <= last and first <= known + self._margin
            for known, sent in self._spans.get(name, {}).items()
        )

    def __contains__(self, name: str) -> bool:
        return name in self._spans


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
            early.add(_pattern(counted[-1]), sent, known[partition])
    for partition, part in read.items():
        for offset, (time_sent, wanted, got) in enumerate(zip(part.times, part.alerts, seen[partition], strict=True)):
            if wanted != got:
                what = f"{got} of {wanted} alerts of {partition}-{offset} in the keyed topic"
                wrong.append(Wrong(what, time_sent, time_sent, max(0, wanted - got), max(0, got - wanted)))
            elif part.content[offset] != content[partition][offset]:
                what = f"alerts of {partition}-{offset} are different in the keyed topic"
                wrong.append(Wrong(what, time_sent, time_sent, lost=got, double=got))
    return counted, early, late


@cache
def _named(meta: bytes) -> str:
    return pattern(msgspec.msgpack.decode(meta, type=GroupMeta).labels)


def _pattern(one: Counted) -> str:
    return _named(one.body.meta)


def compare_log(
    config: Config, counted: Iterable[Counted], published: Versions, early: Early, full: Spans, excused: Excused
) -> Iterator[Wrong]:
    """Yields an error for each published aggregate that differs from the expected one; in `full` spans less detail is
    allowed.

    Adds to `excused`.
    """
    by_pattern: defaultdict[str, list[Counted]] = defaultdict(list)
    for one in counted:
        by_pattern[name if (name := _pattern(one)) in early else ""].append(one)
    expected, wanted, found = {}, Counter[str](), Counter[str]()
    for name, some in by_pattern.items():
        for aggregate_name, aggregate in expected_aggregates(config, some).items():
            if early.touches(name, aggregate.first_seen, aggregate.last_seen):
                wanted[name] += aggregate.alert_count
            else:
                expected[aggregate_name] = aggregate
    firm = {}
    for aggregate_name, versions in published.items():
        newest = versions[-1]
        if early.touches(newest.pattern, newest.first_seen, newest.last_seen):
            found[newest.pattern] += newest.alert_count
        else:
            firm[aggregate_name] = versions
    excused.early += wanted.total()
    for aggregate_name in expected.keys() | firm.keys():
        yield from _compare(aggregate_name, expected.get(aggregate_name), firm.get(aggregate_name, ()), full, excused)
    for name in wanted.keys() | found.keys():
        if missing := wanted[name] - found[name]:
            yield now(f"{name} has {found[name]} of {wanted[name]} alerts", max(0, missing), max(0, -missing))


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
        if versions and not _touches(world.truncated, aggregate):
            differences = _differences(aggregate, versions[-1])
            wrong.append(_about(aggregate, f"was published again with differences: {differences}"))
        versions.append(aggregate)
    return result


def _compare(
    name: str, expected: Aggregate | None, versions: Sequence[Aggregate], full: Spans, excused: Excused
) -> Iterator[Wrong]:
    if not versions:
        assert expected is not None
        yield Wrong(f"{name} is missing", expected.first_seen, expected.last_seen, lost=expected.alert_count)
    elif expected is None:
        yield _about(versions[-1], "should not exist", double=versions[-1].alert_count)
    else:
        for found in versions:
            if found.alert_count != expected.alert_count:
                missing = expected.alert_count - found.alert_count
                what = f"should have {expected.alert_count} alerts"
                yield _about(found, what, max(0, missing), max(0, -missing))
            elif found != expected:
                if _touches(full, expected) and _cut_short(found, expected):
                    excused.truncated += 1
                else:
                    yield _about(found, f"differs: {_differences(found, expected)}")


def _touches(spans: Spans, aggregate: Aggregate) -> bool:
    return any(aggregate.first_seen <= end and begin <= aggregate.last_seen for begin, end in spans)


def _cut_short(found: Aggregate, expected: Aggregate) -> bool:
    """Returns whether it is the expected aggregate without the detail of some fingerprints.

    Lists and distinct counts are lower bounds then, and fingerprints that are not listed count as firing.
    """
    alerts = {entry.resource: entry.alerts for entry in expected.resources}
    # A resource that is not listed has no more alerts than the last one that is.
    unlisted = expected.resources[-1].alerts if expected.truncated and expected.resources else 0
    same = msgspec.structs.replace(
        found, distinct=expected.distinct, resolved=expected.resolved, resource_count=expected.resource_count,
        resources=expected.resources, aggregate_class=expected.aggregate_class, truncated=expected.truncated,
    )  # fmt: skip
    return (
        found.truncated
        and same == expected
        and found.aggregate_class in (expected.aggregate_class, "Storm")
        and found.distinct <= expected.distinct
        and found.resource_count <= expected.resource_count
        and all(entry.alerts <= alerts.get(entry.resource, unlisted) for entry in found.resources)
    )


def _differences(actual: Aggregate, expected: Aggregate) -> str:
    found = []
    for name in Aggregate.__struct_fields__:
        one, other = getattr(actual, name), getattr(expected, name)
        if name == "resources":
            one, other = ([e for e in mine if e not in others][:5] for mine, others in ((one, other), (other, one)))
        if one != other:
            found.append(f"{name} is {one}, should be {other}")
    return "; ".join(found) or "the order of its resources"


def _about(aggregate: Aggregate, what: str, lost: int = 0, double: int = 0) -> Wrong:
    text = f"{aggregate.name} ({aggregate.alert_count} alerts) {what}"
    return Wrong(text, aggregate.first_seen, aggregate.last_seen, lost, double)


def now(what: str, lost: int = 0, double: int = 0) -> Wrong:
    """Returns an error of the present time."""
    moment = time.time_ns() // 1_000_000
    return Wrong(what, moment, moment, lost, double)
