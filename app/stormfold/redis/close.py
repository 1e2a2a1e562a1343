"""Closing in Redis: groups are claimed under a lease, read in detail, and deleted when they are published."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import msgspec

from stormfold.errors import ActionRequired, Retry
from stormfold.group import GroupMeta
from stormfold.redis.clock import Clock
from stormfold.redis.errors import translate_errors
from stormfold.redis.layout import META_FIELD, SUMMARY_FIELD, pairs, unpack_group, unpack_members, unpack_summary
from stormfold.redis.script import Packed, RedisAccess, script
from stormfold.redis.versions import StateVersion
from stormfold.storm import BucketDetail
from stormfold.window import Bucket


@dataclass(frozen=True, slots=True)
class OpenBuckets:
    """The open buckets of a group, in order of time."""

    group: str
    meta: GroupMeta
    buckets: tuple[Bucket, ...]


class ReadBucket(NamedTuple):
    """A bucket with its detail."""

    bucket: Bucket
    complete: bool
    """Whether it has the members of its summary. Otherwise `detail` has those that were read, and nothing unlisted."""
    detail: BucketDetail


@dataclass(frozen=True, slots=True)
class Completion:
    """The buckets of a claimed group to delete, and when the rest is due."""

    group: str
    delete: Sequence[Bucket]
    stay: int
    """Buckets that stay."""
    due: int
    """Watermark from which they may have a final segment (ms)."""


@script(
    "state_version", "marks", "due", "open_since", "void", "number", "group_prefix", "bucket_prefix", "lease_prefix",
    libraries=["groups"],
)  # fmt: skip
def claim(*, horizon_seen: int | None, min_marks: int, grace: int, limit: int, token: str, lease: int) -> None:
    """Moves the horizon and leases groups that are due."""


@script(
    "state_version", "due", "open_since", "void", "number", "group_prefix", "bucket_prefix", "lease_prefix",
    libraries=["groups"],
)  # fmt: skip
def complete(*, token: str, completions: Packed) -> None:
    """Deletes what was published and releases the leases."""


class CloseAccess(RedisAccess):
    """Closes groups."""

    async def claim(
        self, version: StateVersion, horizon_seen: int | None, *, min_marks: int, limit: int, token: str, lease: int
    ) -> tuple[Clock, list[OpenBuckets]]:
        """Moves the horizon to `horizon_seen` if that is later, and leases up to `limit` groups for `lease` ms.

        `min_marks` is the number of marks at `horizon_seen` or later: where fewer are, Redis went back since, and the
        horizon stays. Raises `StaleStateVersion`.
        """
        _, horizon, open_groups, first_open, *claimed = await claim(
            self,
            version.number,
            horizon_seen=horizon_seen,
            min_marks=min_marks,
            grace=version.windows.grace,
            limit=limit,
            token=token,
            lease=lease,
        )
        return Clock.read(horizon, open_groups, first_open), [_open_buckets(*item) for item in claimed]

    async def details(self, version: StateVersion, wanted: Sequence[tuple[str, Bucket]]) -> list[BucketDetail]:
        """Details of the buckets of groups, in the same order.

        Raises `Retry` if a bucket is gone, because the lease was lost, or differs, because Redis went back.
        """
        details = []
        for (_, bucket), found in zip(wanted, await self.read_buckets(version, wanted), strict=True):
            if found is None:
                raise Retry("a claimed bucket was completed by another closer")
            if found.bucket != bucket or not found.complete:
                raise Retry("a bucket differs from the one that was claimed")
            details.append(found.detail)
        return details

    async def read_buckets(
        self, version: StateVersion, wanted: Sequence[tuple[str, Bucket]]
    ) -> list[ReadBucket | None]:
        """The buckets of groups as they are now, in the same order; None for those that are gone.

        A bucket can change while it is read: then what was read last may be missing.
        """
        names = self.keys.of(version.number)
        groups = list(dict.fromkeys(group for group, _ in wanted))
        async with translate_errors():
            pipeline = self.redis.pipeline(transaction=False)
            for group, bucket in wanted:
                pipeline.hgetall(names.bucket_key(group, bucket.start))
            for group in groups:
                pipeline.get(f"{names.group_prefix}{group}")
            replies = await pipeline.execute()
            found, values = replies[: len(wanted)], replies[len(wanted) :]
            others = [
                names.part_keys(group, bucket.start, unpack_summary(fields[SUMMARY_FIELD])) if fields else []
                for (group, bucket), fields in zip(wanted, found, strict=True)
            ]
            for key in chain.from_iterable(others):
                pipeline.hgetall(key)
            more = iter(await pipeline.execute())
        unpacked = {group: unpack_group(value) for group, value in zip(groups, values, strict=True) if value}
        return [
            _read(bucket.start, [fields, *islice(more, len(keys))], *unpacked.get(group, (b"", {})))
            for (group, bucket), fields, keys in zip(wanted, found, others, strict=True)
        ]

    async def complete(self, version: StateVersion, token: str, completions: Iterable[Completion]) -> list[bool]:
        """Deletes published buckets and releases the leases; False where a lease was lost or a count differs.

        Raises `StaleStateVersion`.
        """
        _, *completed = await complete(
            self,
            version.number,
            token=token,
            completions=[
                [item.group, item.stay, item.due, [value for b in item.delete for value in (str(b.start), b.alerts)]]
                for item in completions
            ],
        )
        return [bool(code) for code in completed]

    async def open_buckets(self, version: StateVersion) -> list[OpenBuckets]:
        """All open groups, in the order in which they are due. What is completed while they are read may be missing."""
        names = self.keys.of(version.number)
        result = []
        async with translate_errors():
            for group in await self.redis.zrange(names.due, 0, -1):
                value = await self.redis.get(names.group_prefix.encode() + group)
                if value is None:
                    continue
                meta, examples = unpack_group(value)
                pipeline = self.redis.pipeline(transaction=False)
                for start in examples:
                    pipeline.hget(names.bucket_key(group.decode(), start), SUMMARY_FIELD)
                summaries = zip(examples, await pipeline.execute(), strict=True)
                found = [(b"%d" % start, summary) for start, summary in summaries if summary]
                result.append(_open_buckets(group, meta, list(chain.from_iterable(found))))
        return result


def _open_buckets(group: bytes, meta: bytes | None, flat: Sequence[bytes | None]) -> OpenBuckets:
    if meta is None or None in flat:
        raise ActionRequired(
            f"Redis has lost a part of group {group.decode()} and kept the rest: it has evicted or deleted keys",
            "stop the workers, delete the keys of stormfold in Redis, start the workers: open groups are rebuilt from"
            " Kafka",
        )
    buckets = sorted(unpack_summary(summary).bucket(int(start)) for start, summary in pairs(flat))
    return OpenBuckets(group.decode(), msgspec.msgpack.decode(meta, type=GroupMeta), tuple(buckets))


def _read(
    start: int, hashes: Sequence[dict[bytes, bytes]], group_meta: bytes, examples: Mapping[int, bytes]
) -> ReadBucket | None:
    """`hashes` has the fields of the bucket's hashes, the rest is of its group. None if it is not there any more."""
    if not hashes[0] or start not in examples:
        return None
    summary, meta = unpack_summary(hashes[0][SUMMARY_FIELD]), hashes[0].get(META_FIELD, group_meta)
    members = unpack_members(start, hashes)
    unlisted = summary.alerts - summary.unqualified - sum(member.alerts for member in members.values())
    complete = len(members) == summary.members and unlisted >= 0
    detail = BucketDetail(
        meta=meta,
        rank=summary.rank,
        severity=summary.severity,
        late=summary.late,
        truncated=summary.truncated or not complete,
        example=examples[start],
        members=members,
        unlisted=unlisted if complete else 0,
    )
    return ReadBucket(summary.bucket(start), complete, detail)
