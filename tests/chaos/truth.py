"""What must hold when the dust has settled, whatever was broken meanwhile."""

import time
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from app.alert import Poison
from app.audit import Books
from app.config import Config
from app.kafka.tail import open_tail
from app.keyed import GroupMeta
from app.series import SeriesReader
from app.storm import StormMetadata, pattern, to_metadata
from tests.chaos.world import World
from tests.support.pipeline import Essence, Stamped, books, essence, keyed_alerts, model, read_topic


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
class Verdict:
    """What was found."""

    books: Books
    alerts: int
    """In `alerts`, understood."""
    late: int
    storms: int
    """Published, by name."""
    written: dict[str, int]
    """Names in each sink."""
    wrong: list[Wrong] = field(default_factory=list)


class Read(NamedTuple):
    """What `alerts` holds of one partition, by offset (from 0)."""

    times: "array[int]"
    alerts: "array[int]"


async def judge(world: World) -> Verdict:
    """Compares what came out with the log. Everything must be drained."""
    wrong = [_now(complaint) for complaint in world.complaints]
    balance = await books(world.settings, world.config_file)
    if not balance.balanced or balance.open:
        wrong.append(_now(f"the books do not balance: {balance}", max(0, balance.difference), -balance.difference))
    read = await _read(world)
    stamped, early, late = await _keyed(world, read, wrong)
    published = await _published(world, wrong)
    wrong += _compare_all(world.config, stamped, published, early)
    wanted = {name: storm for name, storm in published.items() if storm.storm_class in world.config.publish}
    sinks = {"the folder": {to_metadata(found).name: found for found in _manifests(world.sink)}}
    if world.others:
        sinks["the cluster"] = world.others.gone | world.others.server.storms()
    for sink, found in sinks.items():
        wrong += _compare_sink(sink, wanted, found)
    alerts = sum(sum(part.alerts) for part in read.values())
    return Verdict(balance, alerts, late, len(published), {sink: len(found) for sink, found in sinks.items()}, wrong)


def _compare_sink(sink: str, wanted: dict[str, StormMetadata], found: dict[str, dict[str, Any]]) -> Iterator[Wrong]:
    for name in wanted.keys() | found.keys():
        if name not in wanted:
            yield _now(f"{name} is in {sink}, and was not published")
        elif name not in found:
            yield _about(wanted[name], f"is not in {sink}", lost=wanted[name].alert_count)
        elif not _same(to_metadata(found[name]), wanted[name]):
            yield _about(wanted[name], f"is another one in {sink}")


def _manifests(folder: Path) -> Iterator[dict[str, Any]]:
    for path in folder.glob("*.yaml"):
        yield yaml.load(path.read_bytes(), yaml.CSafeLoader)


async def _read(world: World) -> dict[int, Read]:
    reader = SeriesReader(world.config)
    result: defaultdict[int, Read] = defaultdict(lambda: Read(array("q"), array("q")))
    async with open_tail(world.settings) as tail:
        async for found in tail.read(world.settings.alerts_topic):
            part = result[found.partition]
            assert found.offset == len(part.times), "the log has a hole"
            try:
                count = len(reader.understand(found.value, found.headers, found.timestamp))
            except Poison:
                count = 0
            part.times.append(found.timestamp)
            part.alerts.append(count)
    return result


class _Early:
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


async def _keyed(world: World, read: dict[int, Read], wrong: list[Wrong]) -> tuple[list[Stamped], _Early, int]:
    """The alerts that count, after comparing them with `alerts`: each is there once, at its time unless it was late.

    Then those that were sent to a partition before it was read, and how many were late.
    """
    stamped, early, late = [], _Early(2 * world.config.windows.slice), 0
    seen = {partition: array("q", bytes(8 * len(part.times))) for partition, part in read.items()}
    tardy, ahead, known = world.producer.tardy, world.producer.ahead, world.producer.known
    shadows = _shadows(read, ahead)
    async for found in keyed_alerts(world.settings):
        time_stamped = found.stamped[0]
        partition, offset, _ = found.origin
        sent = read[partition].times[offset]
        seen[partition][offset] += 1
        late += found.late
        excused = (
            (partition, offset) in tardy
            or (partition, offset) in ahead
            or sent < known.get(partition, 0)
            or shadows[partition].reaches(offset, sent)
        )
        if (found.late or time_stamped != sent) and not excused:
            wrong.append(Wrong(f"{found.origin} was sent at {sent}, counts at {time_stamped}", sent, time_stamped))
        stamped.append(found.stamped)
        if sent < known.get(partition, 0):
            early.add(_pattern(found.stamped), sent, known[partition])
    for partition, part in read.items():
        for offset, (time_sent, wanted, got) in enumerate(zip(part.times, part.alerts, seen[partition], strict=True)):
            if wanted != got:
                what = f"{got} of {wanted} alerts of {partition}-{offset} in the keyed topic"
                wrong.append(Wrong(what, time_sent, time_sent, max(0, wanted - got), max(0, got - wanted)))
    return stamped, early, late


@cache
def _named(meta: bytes) -> str:
    return pattern(msgspec.msgpack.decode(meta, type=GroupMeta).labels)


def _pattern(stamped: Stamped) -> str:
    return _named(stamped[1].meta)


def _compare_all(
    config: Config, stamped: Iterable[Stamped], published: Mapping[str, StormMetadata], early: _Early
) -> Iterator[Wrong]:
    by_pattern: defaultdict[str, list[Stamped]] = defaultdict(list)
    for one in stamped:
        by_pattern[name if (name := _pattern(one)) in early else ""].append(one)
    expected, wanted, found = {}, Counter[str](), Counter[str]()
    for name, some in by_pattern.items():
        for storm_name, storm in model(config, some).items():
            if early.touches(name, storm.first, storm.last):
                wanted[name] += storm.alerts
            else:
                expected[storm_name] = storm
    firm = {}
    for storm_name, told in published.items():
        if early.touches(told.pattern, told.first_seen, told.last_seen):
            found[told.pattern] += told.alert_count
        else:
            firm[storm_name] = told
    for storm_name in expected.keys() | firm.keys():
        yield from _compare(storm_name, expected.get(storm_name), firm.get(storm_name))
    for name in wanted.keys() | found.keys():
        if missing := wanted[name] - found[name]:
            yield _now(f"{name} has {found[name]} of {wanted[name]} alerts", max(0, missing), max(0, -missing))


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


async def _published(world: World, wrong: list[Wrong]) -> dict[str, StormMetadata]:
    """The newest of each name. One that comes again says the same again, if neither was cut short for want of room."""
    result: dict[str, StormMetadata] = {}
    for found in await read_topic(world.settings, world.settings.storms_topic):
        storm = to_metadata(msgspec.json.decode(found.value))
        before = result.setdefault(storm.name, storm)
        if not _same(before, storm):
            wrong.append(_about(storm, "comes again and says something else"))
        result[storm.name] = storm
    return result


def _same(one: StormMetadata, other: StormMetadata) -> bool:
    if one.truncated or other.truncated:
        return (one.alert_count, one.first_seen, one.last_seen) == (
            other.alert_count,
            other.first_seen,
            other.last_seen,
        )
    return one == other


def _compare(name: str, expected: Essence | None, published: StormMetadata | None) -> Iterator[Wrong]:
    if published is None:
        assert expected is not None
        yield Wrong(f"{name} is missing", expected.first, expected.last, lost=expected.alerts)
    elif expected is None:
        yield _about(published, "should not be", double=published.alert_count)
    elif published.alert_count != expected.alerts:
        missing = expected.alerts - published.alert_count
        yield _about(published, f"should have {expected.alerts} alerts", max(0, missing), max(0, -missing))
    elif not _agrees(published, expected):
        yield _about(published, f"says {_cut(essence(published))}, should say {_cut(expected)}")


def _agrees(published: StormMetadata, expected: Essence) -> bool:
    said = essence(published)
    if not published.truncated:
        return said == expected
    # Its list, and where Redis was nearly full its distinct counts, are lower bounds.
    most = dict(expected.resources)
    return (
        said._replace(distinct=0, resolved=0, resources=frozenset())
        == expected._replace(distinct=0, resolved=0, resources=frozenset())
        and said.distinct <= expected.distinct
        and all(alerts <= most.get(resource, 0) for resource, alerts in said.resources)
    )


def _cut(said: Essence) -> Essence:
    return said._replace(resources=frozenset(sorted(said.resources)[:5]))


def _about(storm: StormMetadata, what: str, lost: int = 0, double: int = 0) -> Wrong:
    text = f"{storm.name} ({storm.alert_count} alerts) {what}"
    return Wrong(text, storm.first_seen, storm.last_seen, lost, double)


def _now(what: str, lost: int = 0, double: int = 0) -> Wrong:
    now = time.time_ns() // 1_000_000
    return Wrong(what, now, now, lost, double)
