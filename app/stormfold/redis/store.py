"""The aggregate in Redis: one typed function per Lua script, and the reads that need no script.

Raises `Retry` while Redis is away or full, `ActionRequired` for credentials and permissions.
"""

import struct
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from importlib.resources import files
from typing import Any, NamedTuple

import msgpack
import msgspec
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    TimeoutError,
)

from stormfold.errors import ActionRequired, Retry
from stormfold.eventtime import PartitionPair
from stormfold.group import GroupMeta
from stormfold.merge import Merged, Row, SourcePosition, as_member
from stormfold.positions import Position
from stormfold.redis.keys import Keys
from stormfold.storm import BucketDetail
from stormfold.tls import tls_error
from stormfold.window import Bucket, Rebuild, Windows

AGGREGATE = struct.Struct(">IQQIBB")
"""Field `a` of a bucket: alerts, first and last (ms), late, severity rank, truncated; the severity's name follows."""
MEMBER = struct.Struct(">IIB")
"""A member field of a bucket: alerts, newest - bucket start (ms), flags; the resource in msgpack follows."""
MAXMEMORY_POLICY = "noeviction"
"""Under any other policy Redis can evict open groups."""

_LOGIN = "check STORMFOLD_REDIS_USERNAME and STORMFOLD_REDIS_PASSWORD, or what STORMFOLD_REDIS_URL has of them"


class StaleStateVersion(Retry):
    """Redis holds another epoch than the caller's, or none: reload."""


class PositionConflict(Retry):
    """Redis holds other positions than the caller's: reload and seek there."""


class RedisOutOfMemory(Retry):
    """Redis is out of memory and refuses to fold: nothing was written, lag grows until storms are closed."""


class BehindWatermark(Exception):
    """A row begins before the watermark: count its alerts at the horizon."""

    def __init__(self, horizon: int) -> None:
        super().__init__(f"rows before the horizon {horizon}")
        self.horizon = horizon


@dataclass(frozen=True, slots=True)
class StateVersion:
    """The epoch that stands."""

    number: int
    windows: Windows
    partitions: int
    """Partitions of the keyed topic: fixed for the epoch."""
    rebuild: Rebuild | None
    """Where it began to read again; None if from the beginning, or where the epoch before had come to."""
    since: int | None = None
    """S: what is before it was counted under other windows (ms); None if there never were others."""
    by: int = 0
    """When the worker was started whose windows these are (ms); 0 if nobody knows any more."""

    @property
    def skip_before(self) -> int | None:
        """A rebuild reads alerts again that it must not count again: those before this time (ms)."""
        if self.rebuild is None:
            return None
        return self.rebuild.rebuild_from if self.since is None else max(self.rebuild.rebuild_from, self.since)


@dataclass(frozen=True, slots=True)
class PendingWindows:
    """Windows that shall hold once nothing is open."""

    windows: Windows
    by: int
    """When the worker was started that asked (ms)."""
    ends: Mapping[int, int]
    """Where the keyed partitions ended then."""


@dataclass(slots=True)
class State:
    """What a worker must know to fold on."""

    epoch: StateVersion
    positions: dict[int, Position]
    origins: dict[PartitionPair, SourcePosition]


class Move(NamedTuple):
    """A keyed partition's way from one position to the next."""

    partition: int
    start: int
    end: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds memory: see `Config`. `track_new` false: new fingerprints are counted, no longer listed."""

    max_fingerprints: int
    max_groups: int
    track_new: bool = True


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the epoch's event time stands."""

    horizon: int | None
    open_groups: int
    first_open: int | None
    """Start of the first bucket of the oldest open group."""


@dataclass(frozen=True, slots=True)
class MarksSnapshot:
    """The newest marks in Redis."""

    cells: dict[PartitionPair, int]
    alerts_partitions: int
    """Partitions of `alerts`, as marks tell; 0 before the first."""
    beat: int
    """Changes whenever marks came."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A leased group."""

    group: str
    meta: GroupMeta
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """What to delete of a claimed group, and when to look at the rest."""

    group: str
    delete: Sequence[Bucket]
    stay: int
    due: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Redis' own account of its memory (bytes)."""

    used: int
    """What it measures against maxmemory: without the buffers of its log and of replicas, which a slow disk or a
    replica that hangs fills and which go again by themselves."""
    maximum: int
    """0: no limit."""
    resident: int
    fragmentation: float
    evicted: int
    policy: str

    @property
    def share(self) -> float:
        """Used of maximum, 0 without a maximum."""
        return self.used / self.maximum if self.maximum else 0.0

    def check_eviction(self) -> None:
        """Raises `ActionRequired` if Redis may evict keys, or has evicted some."""
        if self.evicted or (self.maximum and self.policy != MAXMEMORY_POLICY):
            raise ActionRequired(
                f"Redis may evict keys: policy {self.policy}, {self.evicted} evicted",
                f"set maxmemory-policy {MAXMEMORY_POLICY}",
            )


class ScriptReply(IntEnum):
    """Answers of fold.lua."""

    DONE = 0
    AGAIN = 1
    MOVED = 2
    STALE = 3
    BEHIND = 4


@asynccontextmanager
async def translate_errors() -> AsyncIterator[None]:
    """Turns redis-py's errors into what the caller should do."""
    try:
        yield
    except (AuthorizationError, NoPermissionError) as error:
        raise ActionRequired(
            f"Redis refuses: {error}", "docs/how-to/secure.md has the ACL that the user needs"
        ) from error
    except AuthenticationError as error:
        raise ActionRequired(f"Redis refuses the credentials: {error}", _LOGIN) from error
    except OutOfMemoryError as error:
        raise RedisOutOfMemory(f"Redis is full: {error}") from error
    except (ConnectionError, TimeoutError, BusyLoadingError, OSError) as error:
        if handshake := tls_error(error, "Redis", "STORMFOLD_REDIS", "STORMFOLD_REDIS_URL"):
            raise handshake from error
        raise Retry(f"Redis is away: {error}") from error
    except RedisError as error:
        if "OOM command not allowed" in str(error):
            # Redis before 7 wraps it as an error of the script.
            raise RedisOutOfMemory(f"Redis is full: {error}") from error
        raise Retry(f"Redis answers: {error}") from error


@dataclass
class Store:
    """The aggregate under one key prefix."""

    redis: Any
    """A `redis.asyncio.Redis` that decodes nothing; its own types say `bytes | str` of every reply."""
    prefix: str
    keys: Keys = field(init=False)

    def __post_init__(self) -> None:
        self.keys = Keys(self.prefix)
        self._fold, self._claim, self._settle, self._epoch, self._windows = (
            self.redis.register_script((files("stormfold.redis") / f"{name}.lua").read_text())
            for name in ("fold", "claim", "complete", "open_state", "change_windows")
        )

    async def load(self) -> State | None:
        """Epoch, positions and origins of this moment, or None if Redis holds no epoch.

        Raises `StaleStateVersion` if another one was opened meanwhile.
        """
        async with translate_errors():
            fields: dict[bytes, bytes] = await self.redis.hgetall(self.keys.epoch)
            if b"number" not in fields:
                return None
            epoch = _epoch(fields)
            names = self.keys.of(epoch.number)
            # No transaction: a full Redis refuses even one that only reads. Positions come first: if they move
            # meanwhile, the next fold call is refused, and all is loaded again.
            pipeline = self.redis.pipeline(transaction=False).hgetall(names.positions).hgetall(names.origins)
            positions, origins = await pipeline.execute()
        if not positions:
            raise StaleStateVersion
        return State(epoch, _positions(positions), {_cell(k): _origin(v) for k, v in origins.items()})

    async def epoch(self) -> StateVersion | None:
        """The epoch that stands."""
        async with translate_errors():
            fields = await self.redis.hgetall(self.keys.epoch)
        return _epoch(fields) if b"number" in fields else None

    async def open_state_version(self, before: int | None, epoch: StateVersion, starts: Mapping[int, Position]) -> bool:
        """Opens `epoch` at `starts` if `before` still stands; False if somebody else was first."""
        positions: dict[str, str] = {}
        for partition, start in starts.items():
            positions |= {str(partition): str(start.offset), f"{partition}:t": str(start.timestamp)}
        fields = {
            "number": str(epoch.number),
            **_windows_fields(epoch.windows, epoch.by),
            "partitions": str(epoch.partitions),
        }
        if epoch.rebuild is not None:
            fields |= {"begin": str(epoch.rebuild.rebuild_from), "closed": str(epoch.rebuild.closed_before)}
        if epoch.since is not None:
            fields["since"] = str(epoch.since)
        new = self.keys.of(epoch.number)
        async with translate_errors():
            opened = await self._epoch(
                keys=[self.keys.epoch, new.void, new.positions, new.next],
                args=["" if before is None else str(before), _pack(fields), _pack(positions)],
            )
        return bool(opened)

    async def ask(self, epoch: StateVersion, asked: PendingWindows) -> None:
        """Asks for other windows than those of `epoch`, in place of what was asked for before."""
        fields = _windows_fields(asked.windows, asked.by) | {str(p): str(end) for p, end in asked.ends.items()}
        async with translate_errors():
            await self.redis.hset(self.keys.of(epoch.number).next, mapping=fields)

    async def asked(self, epoch: StateVersion) -> PendingWindows | None:
        """What windows were asked for, if any."""
        async with translate_errors():
            fields: dict[bytes, bytes] = await self.redis.hgetall(self.keys.of(epoch.number).next)
        values = {name.decode(): int(value) for name, value in fields.items()}
        ends = {int(name): value for name, value in values.items() if name.isdecimal()}
        return PendingWindows(_windows(values), values["by"], ends) if values else None

    async def change_windows(self, epoch: StateVersion) -> bool:
        """Goes on in the next epoch, under the windows asked for; False if there are none, or not all is closed."""
        old, new = self.keys.of(epoch.number), self.keys.of(epoch.number + 1)
        async with translate_errors():
            changed = await self._windows(
                keys=[
                    self.keys.epoch, old.next, old.positions, old.origins, old.marks, old.open,
                    new.positions, new.origins, new.marks, new.void,
                ],
                args=[epoch.number],
            )  # fmt: skip
        return bool(changed)

    async def keep_intake(self, notes: Mapping[int, tuple[int, str]]) -> None:
        """Keeps what intake has committed: partition → next offset and note."""
        async with translate_errors():
            await self.redis.hset(self.keys.intake, mapping={str(p): f"{o} {note}" for p, (o, note) in notes.items()})

    async def kept_intake(self) -> dict[int, tuple[int, str]]:
        """What intake had committed, as far as Redis remembers."""
        async with translate_errors():
            fields: dict[bytes, bytes] = await self.redis.hgetall(self.keys.intake)
        split = {int(partition): value.decode().split(" ", 1) for partition, value in fields.items()}
        return {partition: (int(offset), note) for partition, (offset, note) in split.items()}

    async def reset_positions(self, epoch: StateVersion, partitions: Iterable[int]) -> None:
        """Has keyed partitions read from offset 0 on; workers that fold them reload their positions."""
        positions = {key: value for p in partitions for key, value in ((str(p), "0"), (f"{p}:t", "-1"))}
        if positions:
            async with translate_errors():
                await self.redis.hset(self.keys.of(epoch.number).positions, mapping=positions)

    async def sweep(self, current: int) -> int:
        """Deletes what epochs before `current` left behind; returns the number of keys."""
        root = self.keys.root.encode()
        swept = 0
        async with translate_errors():
            doomed: list[bytes] = []
            async for key in self.redis.scan_iter(match=root + b"[0-9]*", count=1000):
                if int(key[len(root) :].split(b":")[0]) < current:
                    doomed.append(key)
                if len(doomed) >= 500:
                    swept += await self.redis.unlink(*doomed)
                    doomed.clear()
            if doomed:
                swept += await self.redis.unlink(*doomed)
        return swept

    async def fold(
        self, epoch: StateVersion, moves: Sequence[Move], merged: Merged, limits: Limits
    ) -> tuple[Clock, int]:
        """Folds a poll and moves its positions, all or nothing; folding the same once more is success.

        Returns also how many alerts went into overflow groups: 0 the second time.
        Raises `StaleStateVersion`, `PositionConflict`, `BehindWatermark`, `RedisOutOfMemory`.
        """
        names = self.keys.of(epoch.number)
        blob = _pack(
            [
                epoch.windows.grace,
                limits.max_fingerprints,
                limits.max_groups,
                int(limits.track_new),
                merged.alerts_partitions,
                [[str(m.partition), str(m.start), str(m.end), str(m.timestamp)] for m in moves],
                [v for (k, a), (offset, index) in merged.origins.items() for v in (f"{k}:{a}", f"{offset}:{index}")],
                [v for (k, a), time in merged.marks.items() for v in (f"{k}:{a}", time)],
                merged.overflow,
                [_row(row) for row in merged.rows],
            ]
        )
        async with translate_errors():
            code, *rest = await self._fold(
                keys=[self.keys.epoch, names.positions, names.origins, names.marks, names.due, names.open],
                args=[epoch.number, names.group, names.bucket, blob],
            )
        match ScriptReply(code):
            case ScriptReply.STALE:
                raise StaleStateVersion
            case ScriptReply.MOVED:
                raise PositionConflict
            case ScriptReply.BEHIND:
                raise BehindWatermark(int(rest[0]))
            case _:
                return _clock(rest), rest[3]

    async def claim(
        self, epoch: StateVersion, seen: int | None, *, min_marks: int, most: int, token: str, lease: int
    ) -> tuple[Clock, list[Claimed]]:
        """Moves the horizon to `seen` if that is later, and leases up to `most` groups for `lease` ms.

        `min_marks` is how many marks were at `seen` or past it: where fewer are, Redis went back since, and the horizon
        stays. Raises `StaleStateVersion`.
        """
        names = self.keys.of(epoch.number)
        async with translate_errors():
            code, *rest = await self._claim(
                keys=[self.keys.epoch, names.marks, names.due, names.open, names.void],
                args=[
                    epoch.number, names.group, names.bucket, names.lease,
                    "" if seen is None else seen, epoch.windows.grace, most, token, lease, min_marks,
                ],
            )  # fmt: skip
        if code == ScriptReply.STALE:
            raise StaleStateVersion
        return _clock(rest), [_claimed(*item) for item in rest[3:]]

    async def details(self, epoch: StateVersion, wanted: Sequence[tuple[str, Bucket]]) -> list[BucketDetail]:
        """What the buckets of groups hold, in that order.

        Raises `Retry` if one is gone, for the lease was lost, or is another than is wanted, for Redis went back.
        """
        names = self.keys.of(epoch.number)
        async with translate_errors():
            pipeline = self.redis.pipeline(transaction=False)
            for group, bucket in wanted:
                start = str(bucket.start)
                pipeline.hgetall(f"{names.bucket}{group}:{start}").hmget(f"{names.group}{group}", start, "m")
            found = await pipeline.execute()
        if not all(found[::2]) or any(None in general for general in found[1::2]):
            raise Retry("buckets were settled by another closer")
        return [
            _detail(bucket, fields, *general)
            for (_, bucket), fields, general in zip(wanted, found[::2], found[1::2], strict=True)
        ]

    async def settle(self, epoch: StateVersion, token: str, settlements: Iterable[Completion]) -> list[bool]:
        """Deletes published buckets and gives the leases back; False where a lease was lost or a count differs.

        Raises `StaleStateVersion`.
        """
        names = self.keys.of(epoch.number)
        blob = [
            [s.group, s.stay, s.due, [value for b in s.delete for value in (str(b.start), b.alerts)]]
            for s in settlements
        ]
        async with translate_errors():
            code, *rest = await self._settle(
                keys=[self.keys.epoch, names.due, names.open, names.void],
                args=[epoch.number, names.group, names.bucket, names.lease, token, _pack(blob)],
            )
        if code == ScriptReply.STALE:
            raise StaleStateVersion
        return [bool(settled) for settled in rest]

    async def marks(self, epoch: StateVersion) -> MarksSnapshot:
        """The newest marks."""
        async with translate_errors():
            fields: dict[bytes, bytes] = await self.redis.hgetall(self.keys.of(epoch.number).marks)
        partitions, beat = (int(fields.pop(name, b"0")) for name in (b"n", b"b"))
        fields.pop(b"h", None)
        return MarksSnapshot({_cell(name): int(value) for name, value in fields.items()}, partitions, beat)

    async def clock(self, epoch: StateVersion) -> Clock:
        """Where event time stands."""
        names = self.keys.of(epoch.number)
        async with translate_errors():
            horizon, count, first = await (
                # The horizon first, and no transaction, for a full Redis refuses one: what closes meanwhile can only
                # make the oldest open group a later one than it was at that horizon.
                self.redis.pipeline(transaction=False)
                .hget(names.marks, "h")
                .zcard(names.open)
                .zrange(names.open, 0, 0, withscores=True)
                .execute()
            )
        return _clock([horizon, count, first[0][1] if first else None])

    async def open_buckets(self, epoch: StateVersion) -> list[Claimed]:
        """Every open group with its buckets, oldest first, as far as they hold still while being read."""
        names = self.keys.of(epoch.number)
        result = []
        async with translate_errors():
            for group in await self.redis.zrange(names.open, 0, -1):
                key = names.group.encode() + group
                meta, fields = await self.redis.pipeline(transaction=False).hget(key, "m").hkeys(key).execute()
                starts = [field for field in fields if field != b"m"]
                pipeline = self.redis.pipeline(transaction=False)
                for start in starts:
                    pipeline.hget(names.bucket.encode() + group + b":" + start, "a")
                aggregates = await pipeline.execute()
                if meta is not None:
                    pairs = [v for s, a in zip(starts, aggregates, strict=True) if a for v in (s, a)]
                    result.append(_claimed(group, meta, pairs))
        return result

    async def memory(self) -> Memory:
        """Redis' memory, as it tells it."""
        async with translate_errors():
            info = await self.redis.info()
        return Memory(
            used=info["used_memory"] - info.get("mem_not_counted_for_evict", 0),
            maximum=info.get("maxmemory", 0),
            resident=info.get("used_memory_rss", 0),
            fragmentation=float(info.get("mem_fragmentation_ratio", 0)),
            evicted=info.get("evicted_keys", 0),
            policy=info.get("maxmemory_policy", ""),
        )


def _pack(value: Any) -> bytes:
    # Redis' cmsgpack knows no bin type, and msgspec packs bytes as nothing else.
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return packed


def _row(row: Row) -> list[Any]:
    # The start as text, for Lua would write the number with an exponent.
    return [
        row.group, row.meta, row.overflow, str(row.start), row.due, row.alerts, row.first, row.last, row.rank,
        row.severity, row.late, row.example, [v for fp, member in row.members.items() for v in (fp, *member)],
    ]  # fmt: skip


def _epoch(fields: Mapping[bytes, bytes]) -> StateVersion:
    values = {name.decode(): int(value) for name, value in fields.items()}
    return StateVersion(
        number=values["number"],
        windows=_windows(values),
        partitions=values["partitions"],
        rebuild=Rebuild(values["begin"], values["closed"]) if "begin" in values else None,
        since=values.get("since"),
        by=values.get("by", 0),
    )


def _windows(values: Mapping[str, int]) -> Windows:
    return Windows(gap=values["gap"], grace=values["grace"], slice_length=values["slice"])


def _windows_fields(windows: Windows, by: int) -> dict[str, str]:
    return {"gap": str(windows.gap), "grace": str(windows.grace), "slice": str(windows.slice_length), "by": str(by)}


def _positions(fields: Mapping[bytes, bytes]) -> dict[int, Position]:
    return {
        int(name): Position(int(offset), int(fields.get(name + b":t", b"-1")))
        for name, offset in fields.items()
        if b":" not in name
    }


def _cell(name: bytes) -> PartitionPair:
    keyed, alerts = name.split(b":")
    return int(keyed), int(alerts)


def _origin(value: bytes) -> SourcePosition:
    offset, index = value.split(b":")
    return int(offset), int(index)


def _clock(rest: Sequence[Any]) -> Clock:
    horizon, count, first = rest[:3]
    return Clock(
        horizon=int(horizon) if horizon else None,
        open_groups=int(count),
        first_open=None if first in (b"", None) else int(float(first)),
    )


def _claimed(group: bytes, meta: bytes | None, pairs: Sequence[bytes | None]) -> Claimed:
    held = [value for value in pairs if value is not None]
    if meta is None or len(held) < len(pairs):
        raise ActionRequired(
            f"Redis has lost a part of group {group.decode()}, and kept the rest: it has thrown keys away",
            "stop the workers, empty Redis of what is stormfold's, start them: what was open is rebuilt from Kafka",
        )
    buckets = []
    for start, aggregate in zip(held[::2], held[1::2], strict=True):
        buckets.append(_bucket(int(start), aggregate))
    return Claimed(group.decode(), msgspec.msgpack.decode(meta, type=GroupMeta), tuple(sorted(buckets)))


def _bucket(start: int, aggregate: bytes) -> Bucket:
    alerts, first, last, *_ = AGGREGATE.unpack_from(aggregate)
    return Bucket(start, alerts, first, last)


def _detail(bucket: Bucket, fields: dict[bytes, bytes], example: bytes, meta: bytes) -> BucketDetail:
    aggregate, meta = fields.pop(b"a"), fields.pop(b"m", meta)
    if _bucket(bucket.start, aggregate) != bucket:
        raise Retry("a bucket is another than was claimed")
    _, _, _, late, rank, truncated = AGGREGATE.unpack_from(aggregate)
    return BucketDetail(
        meta=meta,
        rank=rank,
        severity=aggregate[AGGREGATE.size :].decode(),
        late=late,
        truncated=bool(truncated),
        example=example,
        members={
            fingerprint: as_member(bucket.start, (*MEMBER.unpack_from(value), value[MEMBER.size :]))
            for fingerprint, value in fields.items()
        },
    )
