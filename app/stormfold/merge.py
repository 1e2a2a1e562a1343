"""Merges one poll of keyed records by (group, bucket), without alerts that were folded before: rows for one fold call.

Pure: the caller passes the source positions folded so far and gets the new ones. All times are milliseconds.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from sys import intern
from typing import Any, NamedTuple, Protocol

import msgspec

from stormfold.decoding import Malformed, decode_untrusted
from stormfold.eventtime import MAX_EVENT_TIME, PartitionPair
from stormfold.group import GroupMeta, group_id, overflow_meta
from stormfold.keyed_record import (
    ALERT,
    HEAD,
    LATE,
    MARKS,
    NOT_QUALIFIED,
    RESOLVED,
    Body,
    GroupId,
    decode_marks,
)
from stormfold.resource import Resource
from stormfold.storm import Example, Member
from stormfold.window import Windows, first_due

QUALIFIED = 2
"""Flag of a member: some alert of it qualified (`RESOLVED` is the other: its newest alert is resolved)."""
STATUS = RESOLVED | NOT_QUALIFIED
MEMBER_FLAGS = tuple(flags & RESOLVED | (0 if flags & STATUS else QUALIFIED) for flags in range(STATUS + 1))
"""Flags of a member with one alert, by that alert's `RESOLVED` and `NOT_QUALIFIED`."""
MEMO_BYTES = 64 * 1024 * 1024
"""Bytes of decoded bodies that are kept, some 40,000 usual ones; above it, all of them are dropped."""
KNOWN_BYTES = 500
"""Bytes that a kept body takes in addition to twice its own: objects, and its place in a table."""
IDENTITY = 11
"""Bytes of a packed body up to the end of its fingerprint."""

_decode_body = msgspec.msgpack.Decoder(Body).decode
_decode_meta = msgspec.msgpack.Decoder(GroupMeta).decode
_decode_example = msgspec.json.Decoder(Example).decode
_decode_resource = msgspec.msgpack.Decoder(Resource).decode

SourcePosition = tuple[int, int]
"""Offset and index in the record of an alert in its partition of `alerts`."""


class Record(Protocol):
    """The fields that are read of a Kafka record."""

    @property
    def offset(self) -> int: ...
    @property
    def value(self) -> bytes | None: ...


@dataclass(slots=True)
class Row:
    """The alerts of a poll in one bucket of one group."""

    group: str
    meta: bytes
    overflow: int
    """Index of the overflow group that takes the alerts if there are too many groups."""
    start: int
    due: int
    alerts: int
    first: int
    last: int
    rank: int
    severity: str
    late: int
    example: bytes
    members: dict[bytes, list[Any]]
    """Fingerprint → alerts, newest - bucket start, flags, resource."""


Rows = dict[tuple[str, int], Row]
"""By group and start of the bucket."""


@dataclass(frozen=True, slots=True)
class LatePolicy:
    """Which alerts are skipped, and at what time alerts before the watermark are counted."""

    skip_before: int | None = None
    """Alerts before it were counted before the rebuild."""
    watermark: int | None = None
    horizon: int = 0
    """An alert before the watermark is counted at this time, as late: that happens after a partition was idle."""


@dataclass(slots=True)
class Merged:
    """A poll, ready to be folded."""

    rows: list[Row]
    source_positions: dict[PartitionPair, SourcePosition]
    """The newest of each partition pair that moved."""
    marks: dict[PartitionPair, int]
    alerts_partitions: int
    """Partitions of `alerts` according to the marks; 0 without marks."""
    overflow: list[tuple[str, bytes]]
    """Overflow groups, with their meta."""
    alerts: int = 0
    duplicates: int = 0
    skipped: int = 0
    invalid: int = 0
    """Records that are neither alerts nor marks: another program wrote to the topic."""
    newest: int | None = None
    """Event time of the newest alert."""


class _Group(NamedTuple):
    """What is the same in all bodies of a group, kept once."""

    group: str
    meta: bytes
    overflow: int
    """Index of its overflow group."""


class _Known(msgspec.Struct, frozen=True, gc=False):
    """A body, packed and decoded."""

    raw: bytes
    fingerprint: bytes
    group: str
    rank: int
    resource: bytes
    example: bytes
    severity: str
    of: _Group


@dataclass(slots=True)
class Merger:
    """Merges polls; keeps decoded bodies between them, as alerts repeat."""

    windows: Windows
    _bodies: dict[bytes, _Known] = field(default_factory=dict)
    _groups: dict[tuple[str, bytes], _Group] = field(default_factory=dict)
    _held: int = 0
    """Bytes in both, estimated."""
    _overflow: list[tuple[str, bytes]] = field(default_factory=list)
    _overflow_index: dict[str, int] = field(default_factory=dict)

    def merge(
        self,
        records: Mapping[int, Iterable[Record]],
        source_positions: Mapping[PartitionPair, SourcePosition],
        late_policy: LatePolicy,
    ) -> Merged:
        """Merges records by keyed partition, in the order of their offsets."""
        rows: Rows = {}
        merged = self.merge_into(rows, records, source_positions, late_policy)
        for row in rows.values():
            row.due = first_due(row.start, row.last, self.windows)
        merged.rows = list(rows.values())
        return merged

    def merge_into(
        self,
        rows: Rows,
        records: Mapping[int, Iterable[Record]],
        source_positions: Mapping[PartitionPair, SourcePosition],
        late_policy: LatePolicy,
    ) -> Merged:
        """Merges into `rows`, which are not part of the result and get no due time."""
        # This loop runs once for each alert: what each pass needs is local, what few passes need is a call.
        gap, bodies, read_head, head_size = self.windows.gap, self._bodies, HEAD.unpack_from, HEAD.size
        skip_before, watermark = late_policy.skip_before, late_policy.watermark
        merged = Merged([], {}, {}, 0, self._overflow)
        count, latest = 0, -1
        folded: defaultdict[int, dict[int, SourcePosition]] = defaultdict(dict)
        for (partition, alerts), source in source_positions.items():
            folded[partition][alerts] = source
        for keyed, found in records.items():
            before = folded[keyed]
            newest = dict(before)
            for record in found:
                value = record.value or b"\0"
                if value[0] != ALERT or len(value) <= head_size:
                    self._other(keyed, value, merged)
                    continue
                raw = value[head_size:]
                known = bodies.get(raw[:IDENTITY])
                # Comparing the rest is cheaper than hashing it.
                if known is None or known.raw != raw:
                    known = self._decode(raw)
                    if known is None:
                        merged.invalid += 1
                        continue
                _, flags, time, alerts, offset, index = read_head(value)
                if time > MAX_EVENT_TIME:
                    merged.invalid += 1
                    continue
                source = (offset, index)
                last = newest.get(alerts)
                if last is not None and source <= last:
                    merged.duplicates += 1
                    continue
                newest[alerts] = source
                if skip_before is not None and time < skip_before:
                    merged.skipped += 1
                    continue
                if watermark is not None and time < watermark:
                    time, flags = late_policy.horizon, flags | LATE
                count += 1
                if time > latest:
                    latest = time
                group, rank, example, severity, of = known.group, known.rank, known.example, known.severity, known.of
                meta = of.meta
                past = time % gap
                row = rows.get((group, time - past))
                if row is None:
                    row = rows[group, time - past] = Row(
                        group, meta, of.overflow, time - past, 0, 0, time, time, rank, severity, 0, example, {}
                    )
                row.alerts += 1
                if time < row.first or (time == row.first and example < row.example):
                    row.first, row.example = time, example
                if time > row.last:
                    row.last = time
                if rank < row.rank or (rank == row.rank and severity < row.severity):
                    row.rank, row.severity = rank, severity
                if meta is not row.meta and meta < row.meta:
                    row.meta = meta
                if flags & LATE:
                    row.late += 1
                member = row.members.get(known.fingerprint)
                if member is None:
                    row.members[known.fingerprint] = [1, past, MEMBER_FLAGS[flags & STATUS], known.resource]
                else:
                    _add_alert(member, past, MEMBER_FLAGS[flags & STATUS], known.resource)
            merged.source_positions |= {
                (keyed, alerts): at for alerts, at in newest.items() if before.get(alerts) != at
            }
        merged.alerts, merged.newest = count, latest if count else None
        return merged

    def _other(self, keyed: int, value: bytes, merged: Merged) -> None:
        if value[0] == MARKS:
            self._mark(keyed, value, merged)
        else:
            merged.invalid += 1

    def _mark(self, keyed: int, value: bytes, merged: Merged) -> None:
        try:
            marks = decode_marks(value)
        except Malformed:
            merged.invalid += 1
            return
        merged.alerts_partitions = max(merged.alerts_partitions, marks.partitions)
        # Alerts stamped under a larger grace than that of the watermark may be earlier by the difference.
        more = max(0, marks.grace - self.windows.grace)
        for alerts, time in marks.progress.items():
            pair, reached = (keyed, alerts), max(0, time - more)
            if merged.marks.get(pair, -1) < reached:
                merged.marks[pair] = reached

    def _decode(self, raw: bytes) -> _Known | None:
        try:
            known = decode_untrusted(self._known, raw)
        except Malformed:
            return None
        self._hold(2 * len(raw) + KNOWN_BYTES)
        self._bodies[raw[:IDENTITY]] = known
        return known

    def _known(self, raw: bytes) -> _Known:
        """Decodes a body, for `decode_untrusted`. Values that the closer cannot read must not get into Redis."""
        body = _decode_body(raw)
        of = self._groups.get((body.group, body.meta)) or self._add_group(body)
        _decode_example(body.example)
        if body.resource:
            _decode_resource(body.resource)
        return _Known(
            raw, body.fingerprint, of.group, body.rank, body.resource, body.example, intern(body.severity), of
        )

    def _add_group(self, body: Body) -> _Group:
        group = msgspec.convert(body.group, GroupId)
        known = _Group(group, body.meta, self._overflow_of(_decode_meta(body.meta)))
        self._hold(len(body.meta) + KNOWN_BYTES)
        self._groups[body.group, body.meta] = known
        return known

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > MEMO_BYTES:
            self._bodies.clear()
            self._groups.clear()
            self._held = size

    def _overflow_of(self, meta: GroupMeta) -> int:
        other = overflow_meta(meta)
        group = group_id(other.route, other.labels, other.silenced)
        if group not in self._overflow_index:
            self._overflow_index[group] = len(self._overflow)
            self._overflow.append((group, msgspec.msgpack.encode(other)))
        return self._overflow_index[group]


def _add_alert(member: list[Any], last: int, flags: int, resource: bytes) -> None:
    """Adds an alert to a member; `last` is relative to the bucket's start, `flags` are the member's if it is alone."""
    member[0] += 1
    qualified, resolved = (member[2] | flags) & QUALIFIED, flags & RESOLVED
    if last > member[1]:
        member[1] = last
    elif last < member[1]:
        resolved = member[2] & RESOLVED
    else:
        resolved |= member[2] & RESOLVED
    member[2] = qualified | resolved
    if resource < member[3]:
        member[3] = resource


def as_member(start: int, kept: Sequence[Any]) -> Member:
    """One of a row's `members`, in the bucket that begins at `start`."""
    alerts, last, flags, resource = kept
    decoded = _decode_resource(resource) if resource else None
    return Member(alerts, start + last, bool(flags & RESOLVED), bool(flags & QUALIFIED), decoded)
