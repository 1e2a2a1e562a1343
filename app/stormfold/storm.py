"""An aggregate: the closed result of one group over one segment, how it is folded from buckets, and its class."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Annotated, Literal, NamedTuple

import msgspec

from stormfold.eventtime import EventTime
from stormfold.group import GroupMeta, aggregate_name, pattern
from stormfold.resource import Resource
from stormfold.scope import IncidentScope
from stormfold.text import truncate
from stormfold.window import Segment

AggregateClass = Literal["Storm", "Isolated", "Silenced"]
MAX_COUNT = 2**63 - 1
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]

MAX_LIST_BYTES = 100_000
"""Limit of `affectedResources` as JSON: with everything else a resource stays far below etcd's 1.5 MiB."""
MAX_VALUE_BYTES = 1024
"""Longest label name, label value or resource name in a resource; longer ones are cut (identity is by hash)."""
MAX_GROUP_LABELS = 64
"""Most group labels in a resource."""
MAX_PATTERN_BYTES = 2048
"""Longest pattern in a resource."""
EXAMPLE_BYTES = 1024
"""Limit of the example alert as JSON: Redis holds one for each open bucket."""


class Example(msgspec.Struct, frozen=True, omit_defaults=True):
    """One alert, cut to `EXAMPLE_BYTES`."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class AffectedResource(msgspec.Struct, frozen=True, gc=False):
    """A resource that alerts of the aggregate were about, and how many."""

    resource: Resource
    alerts: Count

    def to_builtins(self) -> dict[str, object]:
        """An entry of `affectedResources`; a resource without a namespace has no such key."""
        kind, namespace, name = self.resource
        place = {"kind": kind, "namespace": namespace, "name": name} if namespace else {"kind": kind, "name": name}
        return {**place, "alerts": self.alerts}


class Member(NamedTuple):
    """One fingerprint in one bucket."""

    alerts: int
    last: int
    """Event time of its newest alert."""
    resolved: bool
    """Status of its newest alert."""
    qualified: bool
    """Whether any of its alerts qualified: it fired, was severe enough, and was new."""
    resource: Resource | None


class BucketDetail(NamedTuple):
    """Everything that a bucket holds besides its times and its count."""

    meta: bytes
    """`GroupMeta` in msgpack; the lowest, if the configuration changed while the bucket was open."""
    rank: int
    """Index of the highest severity in the configured order, 0 the highest."""
    severity: str
    late: int
    truncated: bool
    example: bytes
    members: Mapping[bytes, Member]
    """By fingerprint."""
    unlisted: int = 0
    """Qualifying alerts that are counted without a member."""


class Aggregate(msgspec.Struct, frozen=True, kw_only=True):
    """The closed result of one group over one segment. Times are milliseconds since the Unix epoch.

    `manifest` converts it to its resource and back without loss.
    """

    name: str
    namespace: str
    aggregate_class: AggregateClass
    route: str
    group_labels: dict[str, str]
    pattern: str
    severity: str
    alert_count: Count
    distinct: Count
    resolved: Count
    resource_count: Count
    resources: tuple[AffectedResource, ...]
    example: Example
    first_seen: EventTime
    last_seen: EventTime
    close_reason: str
    late: Count
    truncated: bool
    scope: IncidentScope | None = None
    """Scope of the incident that it can be part of; None: of none."""

    @property
    def affected(self) -> tuple[str, ...]:
        """The affected resources as `Kind/Name` (with the namespace between, if there is one)."""
        return tuple(str(entry.resource) for entry in self.resources)


def fold_segment(segment: Segment, details: Iterable[BucketDetail], gap: int, max_resources: int) -> Aggregate:
    """Folds a final segment, with the details of its buckets in order of time, into its aggregate."""
    ordered = list(details)
    meta = msgspec.msgpack.decode(min(detail.meta for detail in ordered), type=GroupMeta)
    members = _merge_members(ordered)
    affected: Counter[Resource] = Counter()
    for member in members.values():
        if member.resource is not None:
            affected[member.resource] += member.alerts
    qualified = [member for member in members.values() if member.qualified]
    qualified_resources = {member.resource for member in qualified if member.resource is not None}
    # Nothing but their number is known of qualifying alerts that are not listed: each may be another one, about another
    # resource. A storm too many is better than a storm that is missed.
    unlisted = sum(detail.unlisted for detail in ordered)
    resources = limit_resources(affected.items(), max_resources)
    worst = min(ordered, key=lambda detail: (detail.rank, detail.severity))
    return Aggregate(
        name=aggregate_name(meta, segment.start, gap),
        namespace=meta.namespace,
        aggregate_class=classify(meta, len(qualified) + unlisted, len(qualified_resources) + unlisted),
        route=meta.route,
        group_labels=_truncate_labels(meta.labels),
        pattern=truncate(pattern(meta.labels), MAX_PATTERN_BYTES),
        severity=worst.severity,
        alert_count=sum(bucket.alerts for bucket in segment.buckets),
        distinct=len(members),
        resolved=sum(member.resolved for member in members.values()),
        resource_count=len(affected),
        resources=resources,
        example=msgspec.json.decode(ordered[0].example, type=Example),
        first_seen=segment.buckets[0].first,
        last_seen=segment.buckets[-1].last,
        close_reason=segment.reason,
        late=sum(detail.late for detail in ordered),
        truncated=len(resources) < len(affected) or any(detail.truncated for detail in ordered),
        scope=incident_scope(meta, worst.rank, gap),
    )


def incident_scope(meta: GroupMeta, rank: int, gap: int) -> IncidentScope | None:
    """The scope of an aggregate of a group, closed under windows with that gap (ms); None if it joins no incident."""
    rules = meta.incident
    if rules is None:
        return None
    return IncidentScope(
        labels=_truncate_labels({name: meta.labels[name] for name in rules.by if name in meta.labels}),
        gap=rules.gap,
        max_length=rules.max_length,
        namespace=rules.namespace,
        window_gap=gap,
        rank=rank,
    )


def _merge_members(details: Iterable[BucketDetail]) -> dict[bytes, Member]:
    """The members of all buckets by fingerprint; status and resource are those of the latest bucket."""
    members: dict[bytes, Member] = {}
    for detail in details:
        for fingerprint, member in detail.members.items():
            before = members.get(fingerprint)
            if before is not None:
                qualified = before.qualified or member.qualified
                member = member._replace(alerts=before.alerts + member.alerts, qualified=qualified)
            members[fingerprint] = member
    return members


def classify(meta: GroupMeta, alerts: int, resources: int) -> AggregateClass:
    """Class of an aggregate, by the distinct fingerprints and distinct resources of its qualifying alerts."""
    if meta.silenced:
        return "Silenced"
    if alerts >= meta.storm_alerts or resources >= meta.storm_resources:
        return "Storm"
    return "Isolated"


def lacks_qualified(aggregate: Aggregate, meta: GroupMeta) -> bool:
    """Whether enough alerts fire for a storm, but too few of them qualify: most began long ago, or are not severe."""
    firing = aggregate.distinct - aggregate.resolved
    resources = min(firing, aggregate.resource_count)
    return aggregate.aggregate_class == "Isolated" and classify(meta, firing, resources) == "Storm"


def limit_resources(affected: Iterable[tuple[Resource, int]], limit: int) -> tuple[AffectedResource, ...]:
    """The resources with the most alerts, at most `limit` and `MAX_LIST_BYTES` of them, in a deterministic order."""
    ordered = sorted(affected, key=lambda entry: (-entry[1], entry[0]))
    entries = [AffectedResource(_truncate_resource(resource), alerts) for resource, alerts in ordered[:limit]]
    listed = [entry.to_builtins() for entry in entries]
    # Usually all fit; to encode each alone takes longer.
    if len(msgspec.json.encode(listed)) > MAX_LIST_BYTES:
        sizes = accumulate(len(msgspec.json.encode(entry)) + 1 for entry in listed)
        entries = entries[: bisect_right(list(sizes), MAX_LIST_BYTES)]
    return tuple(entries)


def _truncate_resource(resource: Resource) -> Resource:
    if sum(map(len, resource)) * 4 <= MAX_VALUE_BYTES:
        return resource
    return Resource(*(truncate(text, MAX_VALUE_BYTES) for text in resource))


def cut_example(labels: Mapping[str, str], annotations: Mapping[str, str]) -> bytes:
    """The example alert as JSON of at most `EXAMPLE_BYTES`: summary and runbook_url first, then whatever fits."""
    whole = msgspec.json.encode({"labels": labels, "annotations": annotations})
    if len(whole) <= EXAMPLE_BYTES:
        return whole
    kept: dict[str, dict[str, str]] = {"labels": {}, "annotations": {}}
    left = EXAMPLE_BYTES - len(b'{"labels":{},"annotations":{}}')
    first = [("annotations", key) for key in ("summary", "runbook_url") if key in annotations]
    rest = [("labels", key) for key in labels] + [("annotations", key) for key in annotations]
    for part, key in dict.fromkeys(first + rest):
        value = (labels if part == "labels" else annotations)[key]
        room = EXAMPLE_BYTES // 2 - 64 if (part, key) in first else left
        for text in (value, *(truncate(value, size) for size in (384, 256, 64))):
            size = len(msgspec.json.encode({key: text})) - 1
            if size <= min(room, left):
                kept[part][key] = text
                left -= size
                break
    return msgspec.json.encode(kept)


def _truncate_labels(labels: Mapping[str, str]) -> dict[str, str]:
    kept = sorted(labels.items())[:MAX_GROUP_LABELS]
    return {truncate(key, MAX_VALUE_BYTES): truncate(value, MAX_VALUE_BYTES) for key, value in kept}
