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
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple, NewType

import msgpack

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
    def open_since(self) -> Key:
        """hash, no TTL: start of a bucket (ms) → number of open groups that begin with it."""
        return Key(self.base + "open")

    @property
    def group_prefix(self) -> str:
        """Prefix. string, no TTL: size of `GroupMeta` in msgpack (4 bytes), `GroupMeta`, and in msgpack a list of each
        bucket start and example."""
        return self.base + "g:"

    @property
    def bucket_prefix(self) -> str:
        """Prefix of `<group>:<start>`. hash, no TTL: `a` → bucket summary, 8-byte fingerprint → member, 3-byte hash →
        prefix of resources; `m` → `GroupMeta` if it differs from the group's. A larger bucket has more hashes,
        `<group>:<start>:<part>`, each with the members whose fingerprint modulo the number of parts is `part`, and
        `<group>:<start>:p` with the prefixes."""
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
        """Name of the hash of a bucket that every bucket has."""
        return f"{self.bucket_prefix}{group}{SEPARATOR}{start}"

    def part_keys(self, group: str, start: int, summary: "Summary") -> list[str]:
        """Names of the other hashes of a bucket."""
        if summary.parts == 1:
            return []
        key = self.bucket_key(group, start)
        return [f"{key}{SEPARATOR}{part}" for part in (*range(1, summary.parts), *[PREFIXES_PART][: summary.prefixes])]


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
        windows `since` (`windows_since`); `swept` → its number, once the keys of all older ones are deleted."""
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

LAYOUT = 4
"""Number of the format of all that this module describes. Workers of another one do not see a state version of this."""
ANY_NUMBER = "number"
"""Beginning of the field with the number of a state version; the format follows, in the first format nothing."""
NUMBER = f"{ANY_NUMBER}{LAYOUT}"
PARTITIONS, GAP, GRACE, SLICE = "partitions", "gap", "grace", "slice"
REBUILD_FROM, CLOSED_BEFORE, WINDOWS_SINCE, REQUESTED_AT = "begin", "closed", "since", "by"
"""Fields of a state version; the windows and `REQUESTED_AT` are also those of pending windows."""
SWEPT = "swept"
"""Field of a state version that appears when the keys of all older ones are deleted."""
HORIZON, ALERTS_PARTITIONS, MARKS_VERSION = "h", "n", "b"
"""Fields of the marks that are not a partition pair."""
TIMESTAMP_SUFFIX = ":t"
"""Follows the partition in the field of positions that holds a timestamp."""
META_FIELD = b"m"
SUMMARY_FIELD = b"a"
META_SIZE = struct.Struct(">I")
"""A group begins with the size of its `GroupMeta`. Scripts do not decode that: another program may have written it."""

SUMMARY = struct.Struct(">IQQIBBIBB")
"""A bucket summary: alerts, first and last (ms), late, severity rank, truncated, members, binary logarithm of the
number of parts, prefixes; then the severity's name and, after `UNQUALIFIED_SEPARATOR`, the number of alerts
without a member that do not qualify, unless it is 0."""
UNQUALIFIED_SEPARATOR = "\n"
WHOLE_FIELDS, PART_MEMBERS = 120, 64
"""Most members and prefixes of a bucket with one part; of one with more, most members of a part on average. So a hash
has at most 128 fields, of at most 64 bytes each: within the default limits of every server for the compact encoding."""

FINGERPRINT_BYTES = 8
FLAG_VALUES = 4
"""Number of values of a member's flags, see `merge.MEMBER_FLAGS`."""
PREFIXED = 4
"""Added to the flags if the resource begins with the hash of a prefix that the bucket has."""
ALERTS_UNIT = 8
"""A member begins with one byte: flags + `PREFIXED` or 0 + this × its alerts, or × 0 if they do not fit."""
SHORT_ALERTS, SHORT_TIME = 31, 0xFFFF
"""If the alerts and newest - bucket start (ms) are at most these, the time follows in two bytes; else
`LONG_MEMBER`. The rest is the resource in msgpack, or nothing."""
SHORT_BYTES = 3
LONG_MEMBER = struct.Struct(">II")
"""Alerts, newest - bucket start (ms)."""
PREFIX_HASH_BYTES = 3
MIN_PREFIX, MAX_PREFIX = 8, 64
"""Bytes of a prefix: a shorter one saves little, a longer one would end the compact encoding."""
MAX_PREFIXES = 128
"""Most prefixes of a bucket."""
PREFIXES_PART = "p"
"""Follows a bucket with several parts in the name of the hash that has its prefixes."""
RESOURCE_HEAD, TEXT_HEAD, MAX_TEXT = 0x93, 0xA0, 31
"""msgpack: first byte of a list of three, and of a text without its length; longer texts begin with another byte."""

ROW_FIELDS = (
    "group", "meta", "overflow", "start", "due", "alerts", "first", "last", "rank", "severity", "late", "example",
    "fingerprints", "counts", "times", "prefix_numbers", "rests", "prefixes",
)  # fmt: skip
"""Values of a packed row, in this order. The members are lists of equal length: `counts` are alerts × `FLAG_VALUES` +
flags, `times` newest - bucket start (ms), `prefix_numbers` indexes of `prefixes` from 1, or 0 without one."""


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
        "HORIZON", "ALERTS_PARTITIONS", "MARKS_VERSION", "TIMESTAMP_SUFFIX", "UNQUALIFIED_SEPARATOR", "WHOLE_FIELDS",
        "PART_MEMBERS", "FINGERPRINT_BYTES", "FLAG_VALUES", "PREFIXED", "ALERTS_UNIT", "SHORT_ALERTS", "SHORT_TIME",
        "SHORT_BYTES", "PREFIX_HASH_BYTES", "MAX_PREFIXES", "PREFIXES_PART", "RESOURCE_HEAD", "TEXT_HEAD",
    )  # fmt: skip
    return {
        **{name: globals()[name] for name in names},
        "META_FIELD": META_FIELD.decode(),
        "SUMMARY_FIELD": SUMMARY_FIELD.decode(),
        "META_SIZE": _lua_format(META_SIZE),
        "SUMMARY": _lua_format(SUMMARY),
        "LONG_MEMBER": _lua_format(LONG_MEMBER),
        "QUALIFIED": QUALIFIED,
        **{f"ROW_{name.upper()}": index for index, name in enumerate(ROW_FIELDS, 1)},
        **{reply.name: reply.value for reply in ScriptReply},
    }


def _lua_format(packing: struct.Struct) -> str:
    return packing.format.replace("I", "I4").replace("Q", "I8")


def pack_row(row: Row) -> list[Any]:
    """A row as fold.lua takes it. The start is text, as Lua would write the number with an exponent."""
    members = row.members.values()
    prefix_numbers, rests, prefixes = split_resources([member[3] for member in members])
    return [
        row.group, row.meta, row.overflow, str(row.start), row.due, row.alerts, row.first, row.last, row.rank,
        row.severity, row.late, row.example,
        list(row.members),
        [alerts * FLAG_VALUES + flags for alerts, _, flags, _ in members],
        [member[1] for member in members],
        prefix_numbers,
        rests,
        prefixes,
    ]  # fmt: skip


def split_resources(resources: Iterable[bytes]) -> tuple[list[int], list[bytes], list[bytes]]:
    """Splits resources in msgpack: the number of each one's prefix, the rest of each, and all prefixes.

    A prefix is the kind and the name up to the last hyphen: of the pods of one deployment, in whatever namespace. The
    rest is the namespace and the end of the name. Rests and prefixes begin with the hash of the prefix. A resource
    without a prefix has number 0 and is its own rest.
    """
    heads: dict[bytes, tuple[int, bytes]] = {}
    found: dict[bytes, int] = {}
    numbers, rests = [], []
    for resource in resources:
        end = resource.rfind(b"-") + 1
        head = resource[:end]
        known = heads.get(head)
        if known is None:
            prefix, begin = _split(head)
            known = heads[head] = found.setdefault(prefix, len(found) + 1) if prefix else 0, begin
        number, begin = known
        numbers.append(number)
        rests.append(begin + resource[end:])
    return numbers, rests, list(found)


@lru_cache(maxsize=10_000)
def _split(head: bytes) -> tuple[bytes, bytes]:
    """Prefix of the resources that have these bytes up to the last hyphen, and where their rest begins.

    Both with the hash of the prefix; without a prefix, nothing and all of it.
    """
    # A longer kind or namespace has a byte of its own for the length.
    if not head or head[0] != RESOURCE_HEAD or not 0 <= head[1] - TEXT_HEAD <= MAX_TEXT:
        return b"", head
    namespace = head[1] - TEXT_HEAD + 2
    if namespace >= len(head) or not 0 <= head[namespace] - TEXT_HEAD <= MAX_TEXT:
        return b"", head
    name = namespace + head[namespace] - TEXT_HEAD + 1
    end = MAX_PREFIX + 1 + name - namespace
    prefix = head[1:namespace] + head[name:end]
    if name >= len(head) or len(prefix) < MIN_PREFIX:
        return b"", head
    digest = blake2b(prefix, digest_size=PREFIX_HASH_BYTES).digest()
    return digest + prefix, digest + head[namespace:name] + head[end:]


def _join(prefix: bytes, rest: bytes) -> bytes:
    """The opposite of `_split`."""
    kind, namespace = prefix[0] - TEXT_HEAD + 1, rest[0] - TEXT_HEAD + 1
    return bytes([RESOURCE_HEAD]) + prefix[:kind] + rest[:namespace] + prefix[kind:] + rest[namespace:]


def unpack_group(value: bytes) -> tuple[bytes, dict[int, bytes]]:
    """Reads the value of a group: its meta data, and the example of each bucket by the bucket's start (ms)."""
    (size,) = META_SIZE.unpack_from(value)
    end = META_SIZE.size + size
    flat = msgpack.unpackb(value[end:], raw=True)
    return value[META_SIZE.size : end], {int(start): example for start, example in pairs(flat)}


class Summary(NamedTuple):
    """A bucket summary."""

    alerts: int
    """Number of alerts."""
    first: int
    """Event time of the first alert (ms)."""
    last: int
    """Event time of the last alert (ms)."""
    late: int
    """Number of late alerts."""
    rank: int
    """Index of the highest severity in the configured order, 0 the highest."""
    truncated: bool
    """Whether some fingerprints are counted but are not members."""
    members: int
    """Number of members."""
    parts: int
    """Number of hashes that have members, a power of two; packed as its binary logarithm."""
    prefixes: int
    """Number of prefixes."""
    severity: str
    """Name of the highest severity."""
    unqualified: int
    """Alerts that are counted without a member and do not qualify."""

    def bucket(self, start: int) -> Bucket:
        """The bucket that begins at `start`."""
        return Bucket(start, self.alerts, self.first, self.last)


def unpack_summary(value: bytes) -> Summary:
    """Reads field `SUMMARY_FIELD` of a bucket."""
    alerts, first, last, late, rank, truncated, members, bits, prefixes = SUMMARY.unpack_from(value)
    severity, _, number = value[SUMMARY.size :].decode().partition(UNQUALIFIED_SEPARATOR)
    # Somebody else may have written a severity with the separator to the keyed topic.
    unqualified = int(number) if number.isascii() and number.isdigit() else 0
    return Summary(
        alerts, first, last, late, rank, bool(truncated), members, 1 << bits, prefixes, severity, unqualified
    )


def unpack_members(start: int, hashes: Iterable[Mapping[bytes, bytes]]) -> dict[bytes, Member]:
    """Reads the members in all hashes of a bucket that begins at `start`, by fingerprint.

    Those whose prefix is in none of the hashes are left out: the bucket has changed since the first hash was read.
    """
    fields: dict[bytes, bytes] = {}
    for found in hashes:
        fields |= found
    members = {name: _unpack_member(value, fields) for name, value in fields.items() if len(name) == FINGERPRINT_BYTES}
    return {name: as_member(start, member) for name, member in members.items() if member is not None}


def _unpack_member(value: bytes, fields: Mapping[bytes, bytes]) -> tuple[int, int, int, bytes] | None:
    alerts, form = divmod(value[0], ALERTS_UNIT)
    last, at = int.from_bytes(value[1:SHORT_BYTES]), SHORT_BYTES
    if not alerts:
        (alerts, last), at = LONG_MEMBER.unpack_from(value, 1), 1 + LONG_MEMBER.size
    resource = value[at:]
    if form & PREFIXED:
        prefix = fields.get(resource[:PREFIX_HASH_BYTES])
        if prefix is None:
            return None
        resource = _join(prefix, resource[PREFIX_HASH_BYTES:])
    return alerts, last, form % FLAG_VALUES, resource


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
