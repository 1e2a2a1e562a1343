"""What is forming: the largest open groups, found at a cost that does not grow with how many are open."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from stormfold.group import GroupMeta
from stormfold.redis.store import (
    AGGREGATE,
    MEMBER,
    ScriptReply,
    StaleStateVersion,
    StateVersion,
    Store,
    translate_errors,
)

STRETCH = 500
"""Groups in one script call: about a millisecond of Redis."""
STRETCHES = 4
"""Calls in one look. With more open groups than that, several looks go round once."""
MOST_MEMBERS = 12_000
"""Fields of buckets that one look reads to count fingerprints and resources: a bucket of the default bound fits."""
_OTHERS = {b"a", b"m"}


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


@dataclass(frozen=True, slots=True)
class TopGroups:
    """What a look found."""

    open: int
    """Groups that are open."""
    seen: int
    """How many of them were looked at so far, the oldest first."""
    groups: tuple[OpenGroup, ...]
    """The largest of those, the largest first."""


class _Bucket(NamedTuple):
    start: str
    aggregate: bytes
    fields: int


class _Group(NamedTuple):
    name: str
    meta: GroupMeta
    buckets: tuple[_Bucket, ...]


class OpenGroups:
    """Goes round the open groups, a few stretches at each look, and keeps the `most` largest in view."""

    def __init__(self, store: Store, most: int) -> None:
        self._store = store
        self._most = most
        self._script = store.redis.register_script((files("stormfold.redis") / "top_groups.lua").read_text())
        self._epoch: int | None = None
        self._next = 0
        self._round = False
        """Whether it has been round once."""
        self._names: list[str] = []

    async def look(self, epoch: StateVersion) -> TopGroups:
        """Raises `Retry` or `ActionRequired`, `StaleStateVersion` if that epoch does not stand."""
        if epoch.number != self._epoch:
            self._epoch, self._next, self._round, self._names = epoch.number, 0, False, []
        for _ in range(STRETCHES):
            open_groups, groups = await self._stretch(epoch)
            self._names = [group.name for group in groups]
            self._next += STRETCH
            if self._next >= open_groups:
                self._next, self._round = 0, True
                break
        return TopGroups(open_groups, open_groups if self._round else self._next, await self._count(epoch, groups))

    async def _stretch(self, epoch: StateVersion) -> tuple[int, list[_Group]]:
        keys = self._store.keys
        names = keys.of(epoch.number)
        async with translate_errors():
            code, *rest = await self._script(
                keys=[keys.epoch, names.open],
                args=[epoch.number, names.group, names.bucket, self._next, STRETCH, self._most, *self._names],
            )
        if code == ScriptReply.STALE:
            raise StaleStateVersion
        return rest[0], [_group(*found) for found in rest[1:]]

    async def _count(self, epoch: StateVersion, groups: Sequence[_Group]) -> tuple[OpenGroup, ...]:
        """Reads members, of the largest groups first, as far as `MOST_MEMBERS` goes."""
        left = MOST_MEMBERS
        wanted: list[list[_Bucket]] = []
        pipeline = self._store.redis.pipeline(transaction=False)
        prefix = self._store.keys.of(epoch.number).bucket
        for group in groups:
            wanted.append([])
            for bucket in group.buckets:
                if bucket.fields <= left:
                    left -= bucket.fields
                    wanted[-1].append(bucket)
                    pipeline.hgetall(f"{prefix}{group.name}:{bucket.start}")
        async with translate_errors():
            answers = iter(await pipeline.execute())
        return tuple(
            _forming(group, list(islice(answers, len(read)))) for group, read in zip(groups, wanted, strict=True)
        )


def _group(name: bytes, meta: bytes, flat: Sequence[Any]) -> _Group:
    buckets = (
        _Bucket(start.decode(), aggregate, fields)
        for start, aggregate, fields in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
    )
    return _Group(name.decode(), msgspec.msgpack.decode(meta, type=GroupMeta), tuple(buckets))


def _forming(group: _Group, read: Sequence[Mapping[bytes, bytes]]) -> OpenGroup:
    aggregates = [AGGREGATE.unpack_from(bucket.aggregate) for bucket in group.buckets]
    ranks = [rank for *_, rank, _ in aggregates]
    worst = group.buckets[ranks.index(min(ranks))]
    fingerprints = {name for fields in read for name in fields} - _OTHERS
    resources = {value[MEMBER.size :] for fields in read for name, value in fields.items() if name not in _OTHERS}
    return OpenGroup(
        meta=group.meta,
        severity=worst.aggregate[AGGREGATE.size :].decode(),
        alerts=sum(alerts for alerts, *_ in aggregates),
        distinct=max(len(fingerprints), *(bucket.fields - 1 for bucket in group.buckets)),
        resources=len(resources - {b""}),
        exact=len(read) == len(group.buckets) and not any(truncated for *_, truncated in aggregates),
        first=min(first for _, first, *_ in aggregates),
        last=max(last for _, _, last, *_ in aggregates),
    )
