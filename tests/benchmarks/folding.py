"""The stage fold without Kafka: real keyed records are merged and folded into a real Redis."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from redis.asyncio import Redis

from stormfold.config import Config
from stormfold.keyed_record import encode_alert
from stormfold.merge import LatePolicy, Merged, Merger, Row
from stormfold.positions import Position
from stormfold.redis.clock import Clock
from stormfold.redis.fold import Limits, Move
from stormfold.redis.store import Store
from stormfold.redis.versions import StateVersion
from stormfold.series import SeriesReader
from stormfold.settings import Settings
from stormfold.window import Windows

WINDOWS = Windows()
POLL: int = Settings.model_fields["max_poll_records"].default
"""Alerts in a poll: as many as a batch has at most."""
BEGIN = 1_767_225_600_000
"""Event time (ms) of the alerts: the start of a bucket."""
LIMITS = Limits(max_fingerprints=10_000, max_groups=10_000_000)
NOTHING = LatePolicy()


@dataclass(slots=True)
class KeyedRecord:
    """A record of the keyed topic."""

    offset: int
    value: bytes | None


class PollTime(NamedTuple):
    """Seconds of one poll."""

    merge: float
    fold: float


@dataclass
class Folding:
    """A state version with one keyed partition."""

    client: Any
    """A `redis.asyncio.Redis` or a `NullSink`."""
    store: Store = field(init=False)
    version: StateVersion = field(default=StateVersion(1, WINDOWS, 1, None))
    merger: Merger = field(default_factory=lambda: Merger(WINDOWS))
    at: int = 0
    """Position, and offset of the next alert."""

    def __post_init__(self) -> None:
        self.store = Store(self.client, "bench")

    @classmethod
    async def open(cls, client: Redis) -> "Folding":
        """Opens a state version on an emptied database."""
        await client.flushall()
        folding = cls(client)
        await folding.store.open_state_version(None, folding.version, {0: Position(0, -1)})
        return folding

    async def poll(self, bodies: Sequence[bytes]) -> PollTime:
        """Folds one poll of alerts with these bodies."""
        records = [
            KeyedRecord(self.at + n, encode_alert(body, BEGIN + n % 1000, False, False, 0, self.at + n, 0))
            for n, body in enumerate(bodies)
        ]
        begin = time.perf_counter()
        merged = self.merger.merge({0: records}, {}, NOTHING)
        between = time.perf_counter()
        await self.fold(merged)
        return PollTime(between - begin, time.perf_counter() - between)

    async def fold(self, merged: Merged) -> Clock:
        """Folds merged rows, and moves the position by their number of alerts."""
        move = Move(0, self.at, self.at + max(1, merged.alerts), BEGIN)
        clock, _ = await self.store.fold(self.version, [move], merged, LIMITS)
        self.at = move.end
        return clock

    async def open_storms(self, storm: Row, first: int, count: int, start: int = BEGIN) -> Clock:
        """Folds copies of a storm under other group names, in polls of the usual size."""
        each = max(1, POLL // len(storm.members))
        clock = None
        for begin in range(first, first + count, each):
            rows = [
                replace(storm, group=f"{number:020d}", start=start, due=start + 1, first=start, last=start + 999)
                for number in range(begin, min(begin + each, first + count))
            ]
            clock = await self.fold(Merged(rows, {}, {}, 1, [], alerts=storm.alerts * len(rows)))
        assert clock is not None
        return clock

    def storm(self, bodies: Iterable[bytes]) -> Row:
        """Returns the row of one storm with these alerts, for `open_storms`."""
        records = [
            KeyedRecord(n, encode_alert(body, BEGIN + n % 1000, False, False, 0, n, 0)) for n, body in enumerate(bodies)
        ]
        (row,) = Merger(WINDOWS).merge({0: records}, {}, NOTHING).rows
        return row


def bodies(alerts: Iterable[bytes]) -> list[bytes]:
    """Returns the keyed records that intake makes of alerts, without their heads."""
    reader = SeriesReader(Config())
    return [keyed.body for value in alerts for keyed, _ in reader.parse(value, (), BEGIN)]


class NullSink:
    """Replaces Redis, to measure only the work of the client."""

    def register_script(self, _: str) -> Any:
        """Returns a script that always replies that it has folded."""

        async def call(keys: Sequence[str], args: Sequence[object]) -> list[object]:  # noqa: ARG001
            return [0, b"", 0, b"", 0]

        return call


async def script_seconds(client: Redis) -> float:
    """Returns the seconds that Redis has spent in scripts."""
    stats: Mapping[str, Mapping[str, float]] = await client.info("commandstats")
    return stats.get("cmdstat_evalsha", {}).get("usec", 0) / 1e6
