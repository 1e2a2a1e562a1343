"""Every byte in Redis: key names with type and time to live, fields of hashes, and packed values.

Scripts get these constants from `lua_constants`, so that no format, flag or field name is written a second time in Lua.

All keys begin with `<prefix>:{0}:` (one hash slot, so that a script may use them together), and all but four continue
with the number of the state version: keys of an older one cannot be mistaken for the current, and are deleted later.
Keys that hold counts or positions have no time to live: they are deleted when what they hold is complete.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, NewType

from stormfold.eventtime import PartitionPair
from stormfold.merge import QUALIFIED, Row, SourcePosition, as_member
from stormfold.positions import Position
from stormfold.storm import Member
from stormfold.window import Bucket

Key = NewType("Key", str)
"""Name of a Redis key."""


@dataclass(frozen=True, slots=True)
class VersionKeys:
    """Key names of one state version, by the names that scripts have for them."""

    base: str
    """The beginning of all others."""
    state_version: Key
    number: str

    @property
    def positions(self) -> Key:
        """hash, no TTL: keyed partition → next offset, `<partition>:t` → timestamp of the record before it (ms)."""
        return Key(self.base + "pos")

    @property
    def source_positions(self) -> Key:
        """hash, no TTL: `<keyed partition>:<alerts partition>` → newest source position folded, `<offset>:<index>`."""
        return Key(self.base + "org")

    @property
    def pending_windows(self) -> Key:
        """hash, no TTL: requested windows (`gap`, `grace`, `slice`), `by` → start of the worker that requested them
        (ms), keyed partition → its end at that time. They apply once that is folded and no group is open."""
        return Key(self.base + "next")

    @property
    def marks(self) -> Key:
        """hash, no TTL: `<keyed partition>:<alerts partition>` → progress of event time (ms); `n` → partitions of
        `alerts`; `h` → horizon (ms); `b` → number of fold calls with marks."""
        return Key(self.base + "mark")

    @property
    def due(self) -> Key:
        """zset, no TTL: open group → watermark from which it may have a final segment (ms)."""
        return Key(self.base + "due")

    @property
    def open(self) -> Key:
        """zset, no TTL: open group → start of its first bucket (ms)."""
        return Key(self.base + "open")

    @property
    def group_prefix(self) -> str:
        """Prefix. hash, no TTL: `m` → `GroupMeta` in msgpack, `<bucket start>` → example."""
        return self.base + "g:"

    @property
    def bucket_prefix(self) -> str:
        """Prefix of `<group>:<start>`. hash, no TTL: `a` → bucket summary, 8-byte fingerprint → member;
        `m` → `GroupMeta` if it differs from the group's."""
        return self.base + "b:"

    @property
    def lease_prefix(self) -> str:
        """Prefix. string, TTL: the lease time. Token of the closer that has claimed the group."""
        return self.base + "l:"

    @property
    def void(self) -> Key:
        """Never exists: scripts that must run on a full Redis begin by deleting it."""
        return Key(self.base + "void")

    def bucket_key(self, group: str, start: int) -> str:
        """Name of the hash of a bucket."""
        return f"{self.bucket_prefix}{group}{SEPARATOR}{start}"


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one prefix."""

    prefix: str

    @property
    def root(self) -> str:
        """The beginning of every key."""
        return f"{self.prefix}:{{0}}:"

    @property
    def state_version(self) -> Key:
        """hash, no TTL: the current state version: `number`, windows, `by` → start of the worker that requested them
        (ms), `partitions`; of a rebuild `begin` (`rebuild_from`) and `closed` (`closed_before`); after a change of
        windows `since` (`windows_since`)."""
        return Key(self.root + "epoch")

    @property
    def intake(self) -> Key:
        """hash, no TTL: partition of `alerts` → `<next offset> <metadata>` as committed: Kafka drops the commits of
        deleted topics."""
        return Key(self.root + "intake")

    @property
    def announced(self) -> Key:
        """hash, no TTL: scope of an announced incident as JSON → `announce.notice.Firing` as JSON. Nothing that is
        counted depends on it."""
        return Key(self.root + "announced")

    @property
    def correlation(self) -> Key:
        """string, TTL: the lease time. Token of the worker that correlates storms."""
        return Key(self.root + "correlation")

    def of(self, number: int) -> VersionKeys:
        """Keys of the state version with that number."""
        return VersionKeys(f"{self.root}{number}:", self.state_version, str(number))


SEPARATOR = ":"
"""Between keyed and alerts partition, offset and index, group and bucket start."""

NUMBER, PARTITIONS, GAP, GRACE, SLICE = "number", "partitions", "gap", "grace", "slice"
REBUILD_FROM, CLOSED_BEFORE, WINDOWS_SINCE, REQUESTED_AT = "begin", "closed", "since", "by"
"""Fields of a state version; the windows and `REQUESTED_AT` are also those of pending windows."""
HORIZON, ALERTS_PARTITIONS, MARKS_VERSION = "h", "n", "b"
"""Fields of the marks that are not a partition pair."""
TIMESTAMP_SUFFIX = ":t"
"""Follows the partition in the field of positions that holds a timestamp."""
META_FIELD = b"m"
SUMMARY_FIELD = b"a"

SUMMARY = struct.Struct(">IQQIBB")
"""A bucket summary: alerts, first and last (ms), late, severity rank, truncated; then the severity's name and, after
`UNQUALIFIED_SEPARATOR`, the number of alerts without a member that do not qualify, unless it is 0."""
UNQUALIFIED_SEPARATOR = "\n"
MEMBER = struct.Struct(">IIB")
"""A member: alerts, newest - bucket start (ms), flags; the resource in msgpack follows, or nothing."""

ROW_FIELDS = (
    "group", "meta", "overflow", "start", "due", "alerts", "first", "last", "rank", "severity", "late", "example",
    "members",
)  # fmt: skip
"""Values of a packed row, in this order; `members` is flat."""
MEMBER_VALUES = 5
"""Values of each member of a packed row: fingerprint, alerts, newest - bucket start (ms), flags, resource."""


class ScriptReply(IntEnum):
    """First value of a script's reply."""

    DONE = 0
    REPEATED = 1
    """The call was done before."""
    CONFLICT = 2
    """A position differs from the caller's."""
    STALE = 3
    """The state version differs from the caller's, or there is none."""
    BEHIND = 4
    """An alert is before the watermark."""


def lua_constants() -> dict[str, str | int]:
    """Constants by their name in Lua. Indexes of a row begin at 1."""
    names = (
        "SEPARATOR", "NUMBER", "PARTITIONS", "GAP", "GRACE", "SLICE", "CLOSED_BEFORE", "WINDOWS_SINCE", "REQUESTED_AT",
        "HORIZON", "ALERTS_PARTITIONS", "MARKS_VERSION", "TIMESTAMP_SUFFIX", "UNQUALIFIED_SEPARATOR",
    )  # fmt: skip
    return {
        **{name: globals()[name] for name in names},
        "META_FIELD": META_FIELD.decode(),
        "SUMMARY_FIELD": SUMMARY_FIELD.decode(),
        "SUMMARY": _lua_format(SUMMARY),
        "MEMBER": _lua_format(MEMBER),
        "MEMBER_BYTES": MEMBER.size,
        "MEMBER_VALUES": MEMBER_VALUES,
        "QUALIFIED": QUALIFIED,
        **{f"ROW_{name.upper()}": index for index, name in enumerate(ROW_FIELDS, 1)},
        **{reply.name: reply.value for reply in ScriptReply},
    }


def _lua_format(packing: struct.Struct) -> str:
    return packing.format.replace("I", "I4").replace("Q", "I8")


def pack_row(row: Row) -> list[Any]:
    """A row as fold.lua takes it. The start is text, as Lua would write the number with an exponent."""
    return [
        row.group, row.meta, row.overflow, str(row.start), row.due, row.alerts, row.first, row.last, row.rank,
        row.severity, row.late, row.example, [v for fp, member in row.members.items() for v in (fp, *member)],
    ]  # fmt: skip


class Summary(NamedTuple):
    """A bucket summary."""

    alerts: int
    first: int
    last: int
    late: int
    rank: int
    truncated: bool
    severity: str
    unqualified: int
    """Alerts that are counted without a member and do not qualify."""

    def bucket(self, start: int) -> Bucket:
        """The bucket that begins at `start`."""
        return Bucket(start, self.alerts, self.first, self.last)


def unpack_summary(value: bytes) -> Summary:
    """Reads field `SUMMARY_FIELD` of a bucket."""
    alerts, first, last, late, rank, truncated = SUMMARY.unpack_from(value)
    severity, _, number = value[SUMMARY.size :].decode().partition(UNQUALIFIED_SEPARATOR)
    # Somebody else may have written a severity with the separator to the keyed topic.
    unqualified = int(number) if number.isascii() and number.isdigit() else 0
    return Summary(alerts, first, last, late, rank, bool(truncated), severity, unqualified)


def unpack_members(start: int, fields: Mapping[bytes, bytes]) -> dict[bytes, Member]:
    """Reads all fields of a bucket that begins at `start` but those of `SUMMARY_FIELD` and `META_FIELD`."""
    return {
        fingerprint: as_member(start, (*MEMBER.unpack_from(value), value[MEMBER.size :]))
        for fingerprint, value in fields.items()
    }


def position_fields(positions: Iterable[tuple[int, Position]]) -> dict[str, str]:
    """Fields of `VersionKeys.positions`."""
    fields: dict[str, str] = {}
    for partition, at in positions:
        fields |= {str(partition): str(at.offset), f"{partition}{TIMESTAMP_SUFFIX}": str(at.timestamp)}
    return fields


def read_positions(fields: Mapping[bytes, bytes]) -> dict[int, Position]:
    """The opposite of `position_fields`."""
    suffix = TIMESTAMP_SUFFIX.encode()
    return {
        int(name): Position(int(offset), int(fields.get(name + suffix, b"-1")))
        for name, offset in fields.items()
        if not name.endswith(suffix)
    }


def pack_pair(pair: PartitionPair | SourcePosition) -> str:
    """Field of a partition pair, or value of a source position."""
    return f"{pair[0]}{SEPARATOR}{pair[1]}"


def read_pair(packed: bytes) -> tuple[int, int]:
    """The opposite of `pack_pair`."""
    first, second = packed.split(SEPARATOR.encode())
    return int(first), int(second)


def pairs(flat: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    """Pairs of a flat list, as Lua returns a map."""
    return zip(flat[::2], flat[1::2], strict=True)
