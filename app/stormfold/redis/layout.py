"""Every byte in Redis: key names with type and time to live, fields of hashes, and packed values.

Scripts get these constants through `lua_constants.py`: no format, flag or field name is written again in Lua.

All keys begin with `<prefix>:{0}:` (one hash slot, so that a script may use them together), and all but four continue
with the number of the state version: keys of an older one cannot be mistaken for the current, and are deleted later.
Keys that hold counts or positions have no time to live: they are deleted when what they hold is complete.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from typing import Any, NamedTuple, NewType

import msgpack

from stormfold.eventtime import PartitionPair
from stormfold.merge import SourcePosition, as_member
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
        """Prefix of `<group>:<start>`. string, no TTL: bucket summary, first part of its members, end. The other parts
        of a larger bucket are strings, `<group>:<start>:<part>`, each with the members whose fingerprint modulo the
        number of parts is `part`."""
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
        """Name of the string of a bucket that has its summary."""
        return f"{self.bucket_prefix}{group}{SEPARATOR}{start}"

    def part_keys(self, group: str, start: int, summary: "Summary") -> list[str]:
        """Names of the other strings of a bucket."""
        key = self.bucket_key(group, start)
        return [f"{key}{SEPARATOR}{part}" for part in range(1, summary.parts)]


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


BYTE_ORDER = ">"
"""Of all numbers in bytes."""
SEPARATOR = ":"
"""Between keyed and alerts partition, offset and index, group and bucket start."""

LAYOUT = 3
"""Number of the format of all that this module describes. Workers of another one do not see a state version of this."""
ANY_NUMBER = "number"
"""Beginning of the field with the number of a state version; the format follows, in the first format nothing."""
NUMBER = f"{ANY_NUMBER}{LAYOUT}"
PARTITIONS, GAP, GRACE, SLICE = "partitions", "gap", "grace", "slice"
REBUILD_FROM, CLOSED_BEFORE, WINDOWS_SINCE, REQUESTED_AT = "begin", "closed", "since", "by"
"""Fields of a state version; the windows and `REQUESTED_AT` are also those of pending windows."""
HORIZON, ALERTS_PARTITIONS, MARKS_VERSION = "h", "n", "b"
"""Fields of the marks that are not a partition pair."""
TIMESTAMP_SUFFIX = ":t"
"""Follows the partition in the field of positions that holds a timestamp."""
META_FIELD = b"m"

SUMMARY = struct.Struct(">IQQIBBIBII")
"""A bucket summary: alerts, first and last (ms), late, severity rank, truncated, members, binary logarithm of the
number of parts, alerts without a member that do not qualify, and where the tail begins: after the first part, to the
end of the string. The tail is a msgpack array: the severity's name, the bucket's `GroupMeta` in msgpack, or nothing if
it is the group's, then the prefixes of resources that several members have."""
TAIL_SEVERITY, TAIL_META, TAIL_PREFIXES = 0, 1, 2
"""Indexes in the tail; the prefixes are the rest."""
WHOLE_MEMBERS, PART_MEMBERS = 256, 192
"""Most members of a bucket with one part; of one with more, most members of a part on average. A part is read as a
whole for each poll that has one of its members, and each part costs the name of its key."""
MAX_PREFIXES = 128
"""Most prefixes of a bucket; at most 255."""

PART = struct.Struct(">IB")
"""Beginning of a part: number of its members, and whether they are wide. After it, the part has a count and a time for
each member; the fingerprints; where the text of each member begins and, at last, the end of the texts; the texts. The
count of a member is its alerts × `FLAG_VALUES` + flags, and its time newest - bucket start (ms). Its text is one byte,
the number of a prefix of the bucket from 1, or 0, and the rest of the resource in msgpack, or nothing."""
FINGERPRINT_BYTES = 8
FLAG_VALUES = 4
"""Number of values of a member's flags, see `merge.MEMBER_FLAGS`."""
NARROW, NARROW_END = struct.Struct(">HH"), struct.Struct(">H")
"""Count and time of a member, and a place in the texts."""
WIDE, WIDE_END = struct.Struct(">QI"), struct.Struct(">I")
"""The same in a wide part: one of its members has a count or time, or its texts an end, that does not fit."""


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


class Summary(NamedTuple):
    """A bucket summary."""

    alerts: int
    first: int
    last: int
    late: int
    rank: int
    truncated: bool
    members: int
    parts: int
    unqualified: int
    """Alerts that are counted without a member and do not qualify."""
    severity: str
    meta: bytes
    """`GroupMeta` in msgpack, or empty if it is the group's."""
    prefixes: Sequence[bytes]
    """Prefixes of resources."""

    def bucket(self, start: int) -> Bucket:
        """The bucket that begins at `start`."""
        return Bucket(start, self.alerts, self.first, self.last)


def unpack_bucket(start: int, value: bytes) -> Bucket:
    """Reads the bucket that begins at `start` from the first `SUMMARY.size` bytes of its string."""
    alerts, first, last, *_ = SUMMARY.unpack_from(value)
    return Bucket(start, alerts, first, last)


def unpack_summary(value: bytes) -> Summary:
    """Reads the summary and the tail of the string of a bucket."""
    alerts, first, last, late, rank, truncated, members, bits, unqualified, tail = SUMMARY.unpack_from(value)
    severity, meta, *prefixes = msgpack.unpackb(value[tail:], raw=True)
    return Summary(
        alerts, first, last, late, rank, bool(truncated), members, 1 << bits, unqualified, severity.decode(), meta,
        prefixes,
    )  # fmt: skip


def unpack_members(start: int, values: Sequence[bytes | None]) -> dict[bytes, Member]:
    """Reads the members in all strings of a bucket that begins at `start`, by fingerprint; none if it is gone.

    Those whose prefix is not in the first string are left out: they were written after that was read.
    """
    first, *others = values
    if not first:
        return {}
    prefixes = [b"", *unpack_summary(first).prefixes]
    parts = chain(
        _unpack_part(first, SUMMARY.size, prefixes), *(_unpack_part(other, 0, prefixes) for other in others if other)
    )
    return {fingerprint: as_member(start, member) for fingerprint, member in parts}


def _unpack_part(
    value: bytes, place: int, prefixes: Sequence[bytes]
) -> Iterator[tuple[bytes, tuple[int, int, int, bytes]]]:
    count, wide = PART.unpack_from(value, place)
    numbers, end = (WIDE, WIDE_END) if wide else (NARROW, NARROW_END)
    numbers_at = place + PART.size
    fingerprints_at = numbers_at + count * numbers.size
    ends_at = fingerprints_at + count * FINGERPRINT_BYTES
    texts_at = ends_at + (count + 1) * end.size
    ends = [texts_at + at for (at,) in end.iter_unpack(value[ends_at:texts_at])]
    fingerprints = range(fingerprints_at, ends_at, FINGERPRINT_BYTES)
    for at, (number, last), begin, after in zip(
        fingerprints, numbers.iter_unpack(value[numbers_at:fingerprints_at]), ends[:-1], ends[1:], strict=True
    ):
        if value[begin] < len(prefixes):
            alerts, flags = divmod(number, FLAG_VALUES)
            resource = prefixes[value[begin]] + value[begin + 1 : after]
            yield value[at : at + FINGERPRINT_BYTES], (alerts, last, flags, resource)


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
