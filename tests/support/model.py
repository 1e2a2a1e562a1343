"""The aggregates that alerts make, computed in one go and without stormfold's fold."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

import msgspec

from stormfold.config import Config
from stormfold.group import GroupMeta, aggregate_name
from stormfold.kafka.reader import open_reader
from stormfold.keyed_record import ALERT, HEAD, LATE, RESOLVED, Body
from stormfold.resource import Resource
from stormfold.series import SeriesReader
from stormfold.settings import Settings
from stormfold.storm import Aggregate
from stormfold.window import Bucket, segments
from tests.support.alerts import record


class Counts(NamedTuple):
    """The fields of an aggregate that can be computed without stormfold's fold."""

    alerts: int
    distinct: int
    resolved: int
    resources: frozenset[tuple[str, int]]
    first: int
    last: int
    reason: str


def counts_of(storm: Aggregate) -> Counts:
    """Returns these fields of a published aggregate."""
    resources = frozenset((str(entry.resource), entry.alerts) for entry in storm.resources)
    return Counts(
        storm.alert_count, storm.distinct, storm.resolved, resources, storm.first_seen, storm.last_seen,
        storm.close_reason,
    )  # fmt: skip


def batch_model(config: Config, alerts: Iterable[tuple[int, dict[str, Any]]]) -> dict[str, Counts]:
    """Returns the aggregates, by name, of (event time, plain alert) in order of time; no alert is late."""
    reader = SeriesReader(config)
    stamped = []
    for time, plain in alerts:
        ((keyed, parsed),) = reader.parse(record(plain), (), time)
        stamped.append((time, msgspec.msgpack.decode(keyed.body_at(time), type=Body), parsed.resolved))
    return model(config, stamped)


async def keyed_model(settings: Settings, config: Config) -> dict[str, Counts]:
    """Returns the aggregates, by name, of the keyed topic: each source position once, at its stamped time."""
    return model(config, [found.stamped async for found in keyed_alerts(settings)])


class KeyedAlert(NamedTuple):
    """One alert of the keyed topic."""

    stamped: "Stamped"
    late: bool
    source: tuple[int, int, int]
    """Its source position: partition of `alerts`, offset, index in the record."""


Stamped = tuple[int, Body, bool]
"""Event time (ms), the part that is the same for the whole series, whether the alert is resolved."""


async def keyed_alerts(settings: Settings) -> AsyncIterator[KeyedAlert]:
    """Yields the alerts of the keyed topic that count: the first of each source position, in the order of the log."""
    newest: dict[tuple[int, int], tuple[int, int]] = {}
    bodies: dict[bytes, Body] = {}
    async with open_reader(settings) as tail:
        async for keyed in tail.read(settings.keyed_topic):
            if keyed.value[0] != ALERT:
                continue
            _, flags, time, partition, offset, index = HEAD.unpack_from(keyed.value)
            pair = (keyed.partition, partition)
            if newest.get(pair, (-1, -1)) < (offset, index):
                newest[pair] = (offset, index)
                raw = keyed.value[HEAD.size :]
                if (body := bodies.get(raw)) is None:
                    body = bodies[raw] = msgspec.msgpack.decode(raw, type=Body)
                yield KeyedAlert((time, body, bool(flags & RESOLVED)), bool(flags & LATE), (partition, offset, index))


def model(config: Config, stamped: Iterable[Stamped]) -> dict[str, Counts]:
    """Returns the aggregates by name; alerts may come in any order of event times."""
    groups: dict[bytes, defaultdict[int, list[Stamped]]] = {}
    for entry in stamped:
        groups.setdefault(entry[1].meta, defaultdict(list))[config.windows.bucket(entry[0])].append(entry)
    result = {}
    for packed, found in groups.items():
        meta = msgspec.msgpack.decode(packed, type=GroupMeta)
        times = {start: [time for time, _, _ in entries] for start, entries in found.items()}
        buckets = [Bucket(start, len(at), min(at), max(at)) for start, at in times.items()]
        for part in segments(buckets, config.windows):
            inside = sorted((e for bucket in part.buckets for e in found[bucket.start]), key=lambda entry: entry[0])
            newest = {body.fingerprint: at for at, body, _ in inside}
            # Of two alerts in the same millisecond, the resolved one counts as newer.
            resolved = {b.fingerprint for at, b, resolved in inside if resolved and at == newest[b.fingerprint]}
            resources = Counter(body.resource for _, body, _ in inside if body.resource)
            result[aggregate_name(meta, part.start, config.windows.gap)] = Counts(
                len(inside), len(newest), len(resolved),
                frozenset((str(msgspec.msgpack.decode(r, type=Resource)), n) for r, n in resources.items()),
                inside[0][0], inside[-1][0], part.reason,
            )  # fmt: skip
    return result
