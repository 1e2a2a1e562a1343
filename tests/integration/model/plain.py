"""The plain model: what alerts should become, computed from all of them at once. No buckets, no Redis, no order."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

import msgspec

from stormfold.group import GroupMeta, aggregate_name, group_id, pattern
from stormfold.keyed_record import Body, encode_alert
from stormfold.resource import Resource
from stormfold.storm import AffectedResource, Aggregate, Example, Member, incident_scope
from stormfold.window import CloseReason, Windows

T = TypeVar("T")

SEVERITIES = ("critical", "error", "warning", "info", "none")


class Part(NamedTuple, Generic[T]):
    """What should become one storm."""

    start: int
    """Start of the bucket of the first one."""
    held: tuple[T, ...]
    """In order of time."""
    reason: CloseReason
    due: int
    """The first watermark at which it is final."""


def parts(items: Iterable[T], windows: Windows, time: Callable[[T], int]) -> list[Part[T]]:
    """Rules 3, 4 and 7 of one group, word by word, on single alerts."""
    ordered = sorted(items, key=time)
    breaks = [i for i, (a, b) in enumerate(pairwise(ordered), 1) if time(b) - time(a) > windows.gap]
    result: list[Part[T]] = []
    for begin, end in pairwise([0, *breaks, len(ordered)]):
        run = ordered[begin:end]
        if not run:
            continue
        origin = time(run[0]) // windows.gap * windows.gap
        first = origin // windows.slice_length * windows.slice_length
        cuts = [
            cut
            for cut in range(first, time(run[-1]) + 3 * windows.slice_length, windows.slice_length)
            if 2 * (cut - origin) >= windows.slice_length
        ]
        for low, high in pairwise([origin, *cuts]):
            if part := tuple(item for item in run if low <= time(item) < high):
                quiet = time(part[-1]) + windows.gap + 1
                start = time(part[0]) // windows.gap * windows.gap
                result.append(Part(start, part, "Slice" if high < quiet else "Inactivity", min(high, quiet)))
    return result


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as its keyed record encodes it."""

    fingerprint: bytes
    meta: GroupMeta
    time: int
    resolved: bool = False
    late: bool = False
    not_qualified: bool = False
    rank: int = 2
    resource: Resource | None = None
    example: bytes = b"{}"

    @property
    def group(self) -> str:
        """Identity of its group."""
        return group_id(self.meta.route, self.meta.labels, self.meta.silenced)

    @property
    def qualifies(self) -> bool:
        """Whether it counts towards a storm."""
        return not (self.resolved or self.not_qualified)

    @property
    def packed_resource(self) -> bytes:
        """As records and Redis hold it."""
        return msgspec.msgpack.encode(self.resource) if self.resource else b""

    def body(self) -> bytes:
        """The part of its keyed record that its labels decide."""
        return msgspec.msgpack.encode(
            Body(
                fingerprint=self.fingerprint,
                group=self.group,
                meta=msgspec.msgpack.encode(self.meta),
                rank=self.rank,
                severity=SEVERITIES[self.rank],
                resource=self.packed_resource,
                example=self.example,
            )
        )

    def keyed(self, partition: int, offset: int, index: int = 0) -> bytes:
        """The value of its keyed record, if it came from that place of `alerts`."""
        return encode_alert(
            self.body(), time=self.time, resolved=self.resolved, late=self.late,
            partition=partition, offset=offset, index=index, not_qualified=self.not_qualified,
        )  # fmt: skip


class Content(NamedTuple):
    """What a bucket should hold."""

    meta: bytes
    alerts: int
    first: int
    last: int
    late: int
    rank: int
    severity: str
    example: bytes
    members: dict[bytes, Member]


def member(alerts: Iterable[Alert]) -> Member:
    """What is known of one fingerprint in one bucket: its newest alert decides, among equally new ones a resolution."""
    held = list(alerts)
    last = max(alert.time for alert in held)
    resource = min(alert.packed_resource for alert in held)
    return Member(
        alerts=len(held),
        last=last,
        resolved=any(alert.resolved for alert in held if alert.time == last),
        qualified=any(alert.qualifies for alert in held),
        resource=msgspec.msgpack.decode(resource, type=Resource) if resource else None,
    )


def content(alerts: Iterable[Alert]) -> Content:
    """The alerts of one bucket, folded."""
    held = list(alerts)
    first, rank = min(alert.time for alert in held), min(alert.rank for alert in held)
    return Content(
        meta=min(msgspec.msgpack.encode(alert.meta) for alert in held),
        alerts=len(held),
        first=first,
        last=max(alert.time for alert in held),
        late=sum(alert.late for alert in held),
        rank=rank,
        severity=SEVERITIES[rank],
        example=min(alert.example for alert in held if alert.time == first),
        members={fp: member(a for a in held if a.fingerprint == fp) for fp in {a.fingerprint for a in held}},
    )


def buckets(alerts: Iterable[Alert], windows: Windows) -> dict[tuple[str, int], Content]:
    """What Redis should hold of alerts, by group and start of the bucket."""
    held: dict[tuple[str, int], list[Alert]] = {}
    for alert in alerts:
        held.setdefault((alert.group, alert.time // windows.gap * windows.gap), []).append(alert)
    return {place: content(inside) for place, inside in held.items()}


def storm(part: Part[Alert], windows: Windows) -> Aggregate:
    """The storm that a part should be published as. Its list of resources is not bounded."""
    alerts = part.held
    meta = msgspec.msgpack.decode(min(msgspec.msgpack.encode(alert.meta) for alert in alerts), type=GroupMeta)
    members = {}
    for fingerprint in {alert.fingerprint for alert in alerts}:
        mine = [alert for alert in alerts if alert.fingerprint == fingerprint]
        newest = mine[-1].time // windows.gap
        # A fingerprint names one resource; should it name several, those of its newest bucket count.
        known = member(alert for alert in mine if alert.time // windows.gap == newest)
        members[fingerprint] = known._replace(alerts=len(mine), qualified=any(alert.qualifies for alert in mine))
    affected: Counter[Resource] = Counter()
    for one in members.values():
        if one.resource:
            affected[one.resource] += one.alerts
    qualified = [one for one in members.values() if one.qualified]
    storms = len(qualified) >= meta.storm_alerts
    storms |= len({one.resource for one in qualified if one.resource}) >= meta.storm_resources
    whole = content(alerts)
    return Aggregate(
        name=aggregate_name(meta, part.start, windows.gap),
        namespace=meta.namespace,
        aggregate_class="Silenced" if meta.silenced else "Storm" if storms else "Isolated",
        route=meta.route,
        group_labels=meta.labels,
        pattern=pattern(meta.labels),
        severity=whole.severity,
        alert_count=len(alerts),
        distinct=len(members),
        resolved=sum(one.resolved for one in members.values()),
        resource_count=len(affected),
        resources=tuple(
            AffectedResource(r, n) for r, n in sorted(affected.items(), key=lambda item: (-item[1], item[0]))
        ),
        example=msgspec.json.decode(whole.example, type=Example),
        first_seen=whole.first,
        last_seen=whole.last,
        close_reason=part.reason,
        late=whole.late,
        truncated=False,
        scope=incident_scope(meta, whole.rank, windows.gap),
    )


def storms(alerts: Iterable[Alert], windows: Windows) -> dict[str, Aggregate]:
    """Every storm that alerts should become, by name."""
    groups: dict[str, list[Alert]] = {}
    for alert in alerts:
        groups.setdefault(alert.group, []).append(alert)
    found = [storm(part, windows) for held in groups.values() for part in parts(held, windows, lambda a: a.time)]
    assert len({one.name for one in found}) == len(found), "two storms under one name"
    return {one.name: one for one in found}
