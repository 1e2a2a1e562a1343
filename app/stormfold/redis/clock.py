"""How far event time is: the marks, and the horizon with what is open at that moment."""

from dataclasses import dataclass

from stormfold.eventtime import PartitionPair
from stormfold.redis import layout
from stormfold.redis.errors import translate_errors
from stormfold.redis.script import RedisAccess, script
from stormfold.redis.versions import StateVersion


@dataclass(frozen=True, slots=True)
class Clock:
    """Event time of a state version, and what is open, at one moment."""

    horizon: int | None
    """In ms; None before all partition pairs have a mark."""
    open_groups: int
    first_open: int | None
    """Start of the first bucket of the oldest open group (ms)."""

    @classmethod
    def read(cls, horizon: bytes, open_groups: int, first_open: bytes) -> "Clock":
        """Reads the three values that scripts return."""
        return cls(int(horizon) if horizon else None, open_groups, int(first_open) if first_open else None)


@dataclass(frozen=True, slots=True)
class MarksSnapshot:
    """The newest marks in Redis."""

    marks: dict[PartitionPair, int]
    alerts_partitions: int
    """Partitions of `alerts` according to the marks; 0 before the first."""
    marks_version: int
    """Changes with each fold call that brings marks."""


@script("state_version", "marks", "due", "open_since", "number", libraries=["groups"])
def clock() -> None:
    """Reads horizon and open groups at one moment."""


class ClockAccess(RedisAccess):
    """Reads event time."""

    async def clock(self, version: StateVersion) -> Clock:
        """Horizon and open groups of one moment. Raises `StaleStateVersion`.

        Read apart, Redis could lose its data between the two: the time up to which all is closed and published, which
        follows from them, would be after groups that a rebuild then drops.
        """
        _, *values = await clock(self, version.number)
        return Clock.read(*values)

    async def marks(self, version: StateVersion) -> MarksSnapshot:
        """The newest marks."""
        async with translate_errors():
            fields: dict[bytes, bytes] = await self.redis.hgetall(self.keys.of(version.number).marks)
        partitions, marks_version, _ = (
            int(fields.pop(name.encode(), b"0"))
            for name in (layout.ALERTS_PARTITIONS, layout.MARKS_VERSION, layout.HORIZON)
        )
        return MarksSnapshot(
            {layout.read_pair(f): int(value) for f, value in fields.items()}, partitions, marks_version
        )
