"""Folds a merged poll, or a portion of one, into Redis, with the positions that it moves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stormfold.merge import Merged
from stormfold.redis.clock import Clock
from stormfold.redis.errors import BehindWatermark, PositionConflict
from stormfold.redis.layout import ScriptReply, pack_pair, pack_row
from stormfold.redis.script import Packed, RedisAccess, script
from stormfold.redis.versions import StateVersion


class Move(NamedTuple):
    """The step of a keyed partition from one position to the next."""

    partition: int
    start: int
    end: int
    timestamp: int
    """Of the last record before the end (ms)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds memory; see `Config`."""

    max_fingerprints: int
    max_groups: int
    track_new: bool = True
    """False: new fingerprints are counted but do not become members."""


@script(
    "state_version", "positions", "source_positions", "marks", "due", "open_since", "void", "number", "group_prefix",
    "bucket_prefix", libraries=("commands", "groups", "bucket"),
)  # fmt: skip
def fold(
    *, grace: int, max_fingerprints: int, max_groups: int, track_new: bool, alerts_partitions: int, moves: Packed,
    new_source_positions: Packed, new_marks: Packed, overflow: Packed, rows: Packed,
) -> None:  # fmt: skip
    """Folds alerts and moves positions, all or nothing."""


class FoldAccess(RedisAccess):
    """Folds."""

    async def fold(
        self, version: StateVersion, moves: Sequence[Move], merged: Merged, limits: Limits
    ) -> tuple[Clock, int]:
        """Folds alerts and moves the positions, all or nothing; the same call once more succeeds and changes nothing.

        Returns the clock, and the alerts that went into overflow groups: 0 the second time.
        Raises `StaleStateVersion`, `PositionConflict`, `BehindWatermark`, `RedisOutOfMemory`.
        """
        code, *values = await fold(
            self,
            version.number,
            grace=version.windows.grace,
            max_fingerprints=limits.max_fingerprints,
            max_groups=limits.max_groups,
            track_new=limits.track_new,
            alerts_partitions=merged.alerts_partitions,
            moves=[[str(value) for value in move] for move in moves],
            new_source_positions=[pack_pair(one) for item in merged.source_positions.items() for one in item],
            new_marks=[value for pair, time in merged.marks.items() for value in (pack_pair(pair), time)],
            overflow=merged.overflow,
            rows=[pack_row(row) for row in merged.rows],
        )
        match ScriptReply(code):
            case ScriptReply.CONFLICT:
                raise PositionConflict
            case ScriptReply.BEHIND:
                raise BehindWatermark(int(values[0]))
            case _:
                return Clock.read(*values[:3]), values[3]
