"""Whether a stored position still fits its partition, and what follows. Pure: callers ask Kafka and act.

A position is the next offset to read, with the timestamp of the record before it: if the topic was deleted and created
again under its name, a different record is found there, or none.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple


class Position(NamedTuple):
    """How far a partition was read."""

    offset: int
    """The next offset to read."""
    timestamp: int = -1
    """Timestamp of the record before it (ms), -1 if there is none or it is not known."""


class RecordTime(NamedTuple):
    """Offset and timestamp (ms) of a record."""

    offset: int
    timestamp: int


class Closed(NamedTuple):
    """How far a state version has closed."""

    state_version: int
    before: int | None
    """Every aggregate that begins before this time (ms) is closed; None if none is known to be."""


class Verdict(Enum):
    """What follows for a partition."""

    VALID = "continue from the position"
    EXPIRED = "retention deleted records from the position on: read from the beginning of the log, count the loss"
    RECREATED = "the topic was created again: do not read the partition until a person resets its position"


def check_position(position: Position, begin: int, end: int, before: RecordTime | None = None) -> Verdict:
    """Compares a position with the offsets at which its partition begins and ends.

    `before` is the first record found from `offset_to_verify` on; the position is only compared with it if given.
    """
    if position.offset > end:
        return Verdict.RECREATED
    if position.offset < begin:
        return Verdict.EXPIRED
    if before is not None and offset_to_verify(position, begin) is not None and contradicts(before, position):
        return Verdict.RECREATED
    return Verdict.VALID


def offset_to_verify(position: Position, begin: int) -> int | None:
    """Offset of the record whose timestamp the position carries; None if there is nothing to compare."""
    return position.offset - 1 if position.timestamp >= 0 and position.offset > begin else None


def contradicts(record: RecordTime, position: Position) -> bool:
    """Whether `record` is before the position, but not the record that was there when the position was stored."""
    return record.offset == position.offset - 1 and record.timestamp != position.timestamp


def expired_positions(positions: Mapping[int, Position], begins: Mapping[int, int]) -> dict[int, int]:
    """Partitions whose log begins after their position, with its first offset."""
    return {p: begins[p] for p, at in positions.items() if check_position(at, begins[p], at.offset) is Verdict.EXPIRED}


def lost_records(begin: int, reached: Iterable[int]) -> int:
    """Records that retention deleted unread, if the log begins at `begin`; `reached` are offsets read up to.

    0 where no such offset is known: nothing was read of the partition before.
    """
    return begin - min(begin, max(reached, default=begin))


def behind_commits(positions: Mapping[int, Position], committed: Mapping[int, int]) -> bool:
    """Whether Redis went back: a position in it is before the offset that was committed to Kafka after it."""
    return any(committed.get(partition, 0) > at.offset for partition, at in positions.items())


def reason_to_rebuild(stored: Closed, committed: Closed, expired: Mapping[int, int], slice_length: int) -> str | None:
    """Why the state in Redis cannot be continued; None if it can, also where it went back by less than a slice.

    `stored` is in Redis, `committed` was committed to Kafka; `expired` is the result of `expired_positions`.
    """
    if expired:
        return f"partitions begin after their positions in Redis: {dict(expired)}"
    if committed.state_version > stored.state_version:
        return f"it is older than state version {committed.state_version}, which was committed"
    if committed.before is not None and (stored.before is None or stored.before < committed.before - slice_length):
        return f"it had closed what begins before {stored.before}, but {committed.before} was committed"
    return None
