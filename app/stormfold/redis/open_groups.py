"""The largest open groups, found at a cost that does not grow with the number of open groups."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from stormfold.group import GroupMeta
from stormfold.redis.errors import translate_errors
from stormfold.redis.layout import Summary, pairs, unpack_members, unpack_summary
from stormfold.redis.script import Packed, script
from stormfold.redis.store import Store
from stormfold.redis.versions import StateVersion
from stormfold.storm import Aggregate, BucketDetail, fold_segment
from stormfold.window import Bucket, segments

GROUPS_PER_CALL = 500
"""Groups in one script call: about a millisecond of Redis."""
CALLS_PER_LOOK = 4
"""Script calls of one look. If more groups are open, it takes several looks to see all of them once."""
MAX_MEMBERS = 12_000
"""Members of buckets that one look reads to count fingerprints and resources: a bucket of the default limit fits."""


@dataclass(frozen=True, slots=True)
class OpenGroup:
    """An open group."""

    meta: GroupMeta
    severity: str
    """The highest so far."""
    alerts: int
    distinct: int
    """Fingerprints."""
    resources: int
    exact: bool
    """False: `distinct` and `resources` are lower bounds."""
    first: int
    """Event time of its first alert (ms)."""
    last: int
    """Event time of its last alert (ms)."""


@dataclass(frozen=True, slots=True)
class TopGroups:
    """Result of a look."""

    open: int
    """Open groups."""
    seen: int
    """Open groups that were compared so far, in the order in which they are due."""
    groups: tuple[OpenGroup, ...]
    """The largest of those, the largest first."""


class _Bucket(NamedTuple):
    start: int
    summary: Summary


class _Group(NamedTuple):
    name: str
    meta: GroupMeta
    buckets: tuple[_Bucket, ...]


@script("state_version", "marks", "due", "number", "group_prefix", "bucket_prefix", libraries=["groups"])
def top_groups(*, first: int, count: int, limit: int, by_members: bool, others: Packed) -> None:
    """Finds the largest groups of a range."""


class _Top(NamedTuple):
    horizon: int | None
    """When the look began (ms)."""
    open: int
    seen: int
    groups: list[_Group]


class _Ranking:
    """Compares some of the open groups at each look, one range after the other, and remembers the `limit` largest."""

    def __init__(self, store: Store, limit: int, by_members: bool) -> None:
        self._store = store
        self._limit = limit
        self._by_members = by_members
        self._number: int | None = None
        self._next = 0
        self._seen_all = False
        self._names: list[str] = []

    async def look(self, version: StateVersion) -> _Top:
        """Raises `Retry` or `ActionRequired`, `StaleStateVersion` if that version is not current."""
        if version.number != self._number:
            self._number, self._next, self._seen_all, self._names = version.number, 0, False, []
        horizons = []
        for _ in range(CALLS_PER_LOOK):
            _, horizon, open_groups, *found = await top_groups(
                self._store,
                version.number,
                first=self._next,
                count=GROUPS_PER_CALL,
                limit=self._limit,
                by_members=self._by_members,
                others=self._names,
            )
            horizons.append(int(horizon) if horizon else None)
            groups = [_group(*item) for item in found]
            self._names = [group.name for group in groups]
            self._next += GROUPS_PER_CALL
            if self._next >= open_groups:
                self._next, self._seen_all = 0, True
                break
        seen = open_groups if self._seen_all else self._next
        return _Top(horizons[0], open_groups, seen, groups)


class OpenGroups:
    """The `limit` largest open groups by alerts."""

    def __init__(self, store: Store, limit: int) -> None:
        self._store = store
        self._ranking = _Ranking(store, limit, by_members=False)

    async def look(self, version: StateVersion) -> TopGroups:
        """Raises `Retry` or `ActionRequired`, `StaleStateVersion` if that version is not current."""
        top = await self._ranking.look(version)
        return TopGroups(top.open, top.seen, await self._count(version, top.groups))

    async def _count(self, version: StateVersion, groups: Sequence[_Group]) -> tuple[OpenGroup, ...]:
        """Reads members, of the largest groups first, up to `MAX_MEMBERS`."""
        left = MAX_MEMBERS
        wanted: list[list[tuple[_Bucket, int]]] = []
        names = self._store.keys.of(version.number)
        pipeline = self._store.redis.pipeline(transaction=False)
        for group in groups:
            wanted.append([])
            for bucket in group.buckets:
                if bucket.summary.members <= left:
                    left -= bucket.summary.members
                    keys = names.part_keys(group.name, bucket.start, bucket.summary)
                    wanted[-1].append((bucket, 1 + len(keys)))
                    for key in (names.bucket_key(group.name, bucket.start), *keys):
                        pipeline.hgetall(key)
        async with translate_errors():
            replies = iter(await pipeline.execute())
        return tuple(
            _open_group(group, [(bucket, list(islice(replies, count))) for bucket, count in read])
            for group, read in zip(groups, wanted, strict=True)
        )


class OpenSegments:
    """The open segments of the `limit` groups with the most distinct alerts, as aggregates of what has come so far."""

    def __init__(self, store: Store, limit: int, max_resources: int) -> None:
        self._store = store
        self._max_resources = max_resources
        self._ranking = _Ranking(store, limit, by_members=True)

    async def look(self, version: StateVersion) -> tuple[int | None, list[Aggregate]]:
        """The watermark (ms; None before there is one) when the look began, and the aggregates.

        What is not read, to bound the look or because it changes just then, makes their distinct counts too low, never
        too high. Raises `Retry` or `ActionRequired`, `StaleStateVersion` if that version is not current.
        """
        top = await self._ranking.look(version)
        watermark = None if top.horizon is None else top.horizon - version.windows.grace
        left = MAX_MEMBERS
        wanted: list[tuple[str, Bucket]] = []
        for group in top.groups:
            for bucket in group.buckets:
                if bucket.summary.members <= left:
                    left -= bucket.summary.members
                    wanted.append((group.name, bucket.summary.bucket(bucket.start)))
        found = await self._store.read_buckets(version, wanted)
        details = {(name, bucket.start): one.detail for (name, bucket), one in zip(wanted, found, strict=True) if one}
        return watermark, [one for group in top.groups for one in self._aggregates(version, group, details)]

    def _aggregates(
        self, version: StateVersion, group: _Group, details: Mapping[tuple[str, int], BucketDetail]
    ) -> Iterator[Aggregate]:
        summaries = {bucket.start: bucket.summary for bucket in group.buckets}
        buckets = [summary.bucket(start) for start, summary in summaries.items()]
        for segment in segments(buckets, version.windows, version.rebuild):
            if version.rebuild is None or segment.start >= version.rebuild.closed_before:
                parts = (
                    details.get((group.name, start)) or _without_members(group.meta, summaries[start])
                    for start, *_ in segment.buckets
                )
                yield fold_segment(segment, parts, version.windows.gap, self._max_resources)


def _without_members(meta: GroupMeta, summary: Summary) -> BucketDetail:
    """The detail of a bucket that was not read."""
    return BucketDetail(
        meta=msgspec.msgpack.encode(meta),
        rank=summary.rank,
        severity=summary.severity,
        late=summary.late,
        truncated=True,
        example=b"{}",
        members={},
    )


def _group(name: bytes, meta: bytes, flat: Sequence[Any]) -> _Group:
    buckets = (_Bucket(int(start), unpack_summary(summary)) for start, summary in pairs(flat))
    return _Group(name.decode(), msgspec.msgpack.decode(meta, type=GroupMeta), tuple(buckets))


def _open_group(group: _Group, read: Sequence[tuple[_Bucket, Sequence[Mapping[bytes, bytes]]]]) -> OpenGroup:
    """`read` has some of the group's buckets, with the fields of their hashes."""
    summaries = [bucket.summary for bucket in group.buckets]
    members = [item for bucket, hashes in read for item in unpack_members(bucket.start, hashes).items()]
    return OpenGroup(
        meta=group.meta,
        severity=min(summaries, key=lambda summary: summary.rank).severity,
        alerts=sum(summary.alerts for summary in summaries),
        distinct=max(len({name for name, _ in members}), *(summary.members for summary in summaries)),
        resources=len({member.resource for _, member in members} - {None}),
        exact=len(read) == len(group.buckets)
        and not any(summary.truncated for summary in summaries)
        # Members that moved to another hash between the two reads are missing.
        and len(members) >= sum(summary.members for summary in summaries),
        first=min(summary.first for summary in summaries),
        last=max(summary.last for summary in summaries),
    )
