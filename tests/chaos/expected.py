"""The complete aggregates that a log of alerts must make, computed in one go and without stormfold's fold."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

import msgspec

from stormfold.config import Config
from stormfold.group import GroupMeta, aggregate_name, pattern
from stormfold.keyed_record import Body
from stormfold.resource import Resource
from stormfold.scope import IncidentScope
from stormfold.storm import AffectedResource, Aggregate, AggregateClass, Example
from stormfold.window import Bucket, Segment, segments


class Counted(NamedTuple):
    """One alert of the log, as it is counted."""

    time: int
    """Event time (ms)."""
    body: Body
    resolved: bool
    late: bool


def expected_aggregates(config: Config, alerts: Iterable[Counted]) -> dict[str, Aggregate]:
    """Returns the aggregates by name; alerts may come in any order."""
    groups: dict[bytes, defaultdict[int, list[Counted]]] = {}
    for one in alerts:
        groups.setdefault(one.body.meta, defaultdict(list))[config.windows.bucket(one.time)].append(one)
    result = {}
    for packed, found in groups.items():
        meta = msgspec.msgpack.decode(packed, type=GroupMeta)
        times = {start: [one.time for one in inside] for start, inside in found.items()}
        buckets = [Bucket(start, len(at), min(at), max(at)) for start, at in times.items()]
        for part in segments(buckets, config.windows):
            aggregate = _aggregate(config, meta, part, [found[bucket.start] for bucket in part.buckets])
            result[aggregate.name] = aggregate
    return result


def _aggregate(config: Config, meta: GroupMeta, part: Segment, buckets: Sequence[Sequence[Counted]]) -> Aggregate:
    inside = sorted((one for bucket in buckets for one in bucket), key=lambda one: one.time)
    newest = {one.body.fingerprint: one.time for one in inside}
    # Of two alerts in the same millisecond, the resolved one counts as newer.
    resolved = {one.body.fingerprint for one in inside if one.resolved and one.time == newest[one.body.fingerprint]}
    firing = [one.body for one in inside if not one.resolved]
    fingerprints, resources = {body.fingerprint for body in firing}, {body.resource for body in firing} - {b""}
    affected = Counter(one.body.resource for one in inside if one.body.resource)
    everything = [AffectedResource(_resource(packed), alerts) for packed, alerts in affected.items()]
    # The names of this load are so short that the list never reaches its limit in bytes.
    listed = sorted(everything, key=lambda entry: (-entry.alerts, entry.resource))[: config.max_resources]
    is_storm = len(fingerprints) >= meta.storm_alerts or len(resources) >= meta.storm_resources
    aggregate_class: AggregateClass = "Silenced" if meta.silenced else "Storm" if is_storm else "Isolated"
    first = min(buckets[0], key=lambda one: (one.time, one.body.example))
    rank = min(one.body.rank for one in inside)
    return Aggregate(
        name=aggregate_name(meta, part.start, config.windows.gap),
        namespace=meta.namespace,
        aggregate_class=aggregate_class,
        route=meta.route,
        group_labels=meta.labels,
        pattern=pattern(meta.labels),
        severity=config.severities[rank],
        alert_count=len(inside),
        distinct=len(newest),
        resolved=len(resolved),
        resource_count=len(affected),
        resources=tuple(listed),
        example=msgspec.json.decode(first.body.example, type=Example),
        first_seen=inside[0].time,
        last_seen=inside[-1].time,
        close_reason=part.reason,
        late=sum(one.late for one in inside),
        truncated=len(listed) < len(affected),
        scope=_scope(config, meta, rank),
    )


def _scope(config: Config, meta: GroupMeta, rank: int) -> IncidentScope | None:
    rules = config.incidents
    if rules is None:
        return None
    return IncidentScope(
        labels={name: meta.labels[name] for name in rules.by if name in meta.labels}, gap=rules.gap,
        max_length=rules.max_length, namespace=rules.namespace, window_gap=config.windows.gap, rank=rank,
    )  # fmt: skip


@cache
def _resource(packed: bytes) -> Resource:
    return msgspec.msgpack.decode(packed, type=Resource)
