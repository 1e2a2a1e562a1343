"""Actions on a store that several tests need: fold alerts, read everything, fill Redis."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from stormfold.merge import LatePolicy, Merged, Merger
from stormfold.positions import Position
from stormfold.redis.clock import Clock
from stormfold.redis.fold import Limits, Move
from stormfold.redis.store import Store
from stormfold.redis.versions import StateVersion
from stormfold.resource import Resource
from stormfold.storm import BucketDetail
from stormfold.window import Bucket, Windows
from tests.integration.model import plain
from tests.integration.model.logs import Sent, log
from tests.integration.model.plain import Alert
from tests.integration.model.strategies import GROUPS

WINDOWS = Windows(gap=10, grace=5, slice_length=30)
VERSION = StateVersion(1, WINDOWS, 2, None)
LIMITS = Limits(max_fingerprints=10_000, max_groups=100_000)
GROUP, OTHER, THIRD, _ = GROUPS
NOW = 1_767_225_600_000
"""A multiple of the slice, and as many digits as real times have."""


def alert(number: int, time: int, *, resource: str | None = None, **fields: Any) -> Alert:
    """An alert `time` ms after `NOW` whose fingerprint is `number`."""
    about = Resource("Pod", "shop", resource) if resource else None
    return Alert(number.to_bytes(8, "big"), fields.pop("meta", GROUP), NOW + time, resource=about, **fields)


def merged(alerts: Iterable[Alert], windows: Windows = WINDOWS) -> Merged:
    """A batch of these, from partition pair (0, 0), with source positions from 0."""
    sent = [Sent(one, (0, 0), (n, 0)) for n, one in enumerate(alerts)]
    return Merger(windows).merge(log(sent), {}, LatePolicy())


async def start(store: Store, version: StateVersion = VERSION, before: int | None = None) -> None:
    """Opens the state version with all positions at 0."""
    assert await store.open_state_version(before, version, {p: Position(0, -1) for p in range(version.partitions)})


class Folder:
    """Folds batches of keyed partition 0, one after the other."""

    def __init__(self, store: Store, version: StateVersion = VERSION) -> None:
        self.store = store
        self.version = version
        self.at = 0
        self.overflowed = 0
        """Alerts that went into overflow groups."""

    async def __call__(self, alerts: Sequence[Alert], limits: Limits = LIMITS) -> Clock:
        """Folds alerts as one batch."""
        batch = merged(alerts, self.version.windows)
        clock, overflowed = await self.store.fold(self.version, [Move(0, self.at, self.at + 1, NOW)], batch, limits)
        self.at += 1
        self.overflowed += overflowed
        return clock


async def contents(store: Store, version: StateVersion = VERSION) -> dict[tuple[str, int], plain.Content]:
    """Every open bucket, in the form of the plain model."""
    found = [(claimed, bucket) for claimed in await store.open_buckets(version) for bucket in claimed.buckets]
    details = await store.details(version, [(claimed.group, bucket) for claimed, bucket in found])
    return {
        (claimed.group, bucket.start): content(bucket, detail)
        for (claimed, bucket), detail in zip(found, details, strict=True)
    }


async def held(store: Store) -> list[BucketDetail]:
    """The details of every open bucket."""
    groups = await store.open_buckets(VERSION)
    return await store.details(VERSION, [(group.group, bucket) for group in groups for bucket in group.buckets])


def content(bucket: Bucket, detail: BucketDetail) -> plain.Content:
    """A bucket in the form of the plain model."""
    return plain.Content(
        detail.meta, bucket.alerts, bucket.first, bucket.last, detail.late, detail.rank, detail.severity,
        detail.example, dict(detail.members),
    )  # fmt: skip


async def everything(redis: Redis) -> dict[bytes, Any]:
    """All keys with what they hold."""
    result: dict[bytes, Any] = {}
    async for key in redis.scan_iter(count=1000):
        match await redis.type(key):
            case b"hash":
                result[key] = await redis.hgetall(key)
            case b"zset":
                result[key] = await redis.zrange(key, 0, -1, withscores=True)
            case b"set":
                result[key] = await redis.smembers(key)
            case _:
                result[key] = await redis.get(key)
    return result


@asynccontextmanager
async def full(redis: Redis) -> AsyncIterator[None]:
    """Redis has less memory than it uses."""
    await redis.config_set("maxmemory", 1)
    try:
        yield
    finally:
        await redis.config_set("maxmemory", 0)
