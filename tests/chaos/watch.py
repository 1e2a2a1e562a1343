"""Observes a running pipeline twice a second: its lag, its progress, and the memory and descriptors of its workers."""

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from itertools import pairwise
from typing import NamedTuple

from stormfold.errors import StormfoldError
from stormfold.kafka.committed import read_committed
from stormfold.kafka.reader import TopicReader, open_reader
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from tests.chaos.world import World
from tests.support.servers import until

EVERY = 0.4
"""Seconds between two observations, and so the resolution of stops."""
TIMEOUT = 3.0
"""Longest time that an observation may take (s)."""
FRESH = 20
"""Observations with one connection; a new one sees added partitions."""
SETTLED_MINUTES = 10.0
"""Memory and descriptors of a worker must be stable after a third of this time. Two memos of 64 MB
(`app/stormfold/series.py`, `app/stormfold/merge.py`) fill first, to 120 MB with about 64,000 series in three minutes of
this load. Then they are cleared, and memory varies by about 20 MB."""
TOLERANCE = 16e6
"""Bytes by which peak memory may still grow: both thirds have those variations, but not a backlog."""
MORE_OPEN = 8
"""Descriptors that may be added: clients connect to each of two brokers when they need it, and close connections that
are idle for nine minutes."""
BASE = 6
"""Observations that define the state before a fault."""


class Observation(NamedTuple):
    """One successful observation."""

    at: float
    """Monotonic time (s)."""
    unread: int
    """Records that intake and fold have not processed."""
    unwritten: int
    """Records of `storms` that emit has not processed."""
    open: int
    """Open groups."""
    folded: int
    """Sum of the positions in the keyed topic; it never falls, because folding again is not progress."""
    behind: float
    """Delay of the horizon (s)."""
    problems: tuple[str, ...]
    """Problems of the workers that are not ready."""


class Resources(NamedTuple):
    """Memory and descriptors of one worker at one time."""

    at: float
    pid: int
    resident: int
    """Bytes."""
    descriptors: int


class Life(NamedTuple):
    """Memory and descriptors of one worker, in each third of the time that it was watched."""

    minutes: float
    resident: tuple[float, ...]
    """Medians (bytes)."""
    highest: tuple[float, ...]
    """Maxima (bytes)."""
    descriptors: tuple[float, ...]
    """Medians."""

    @property
    def settled(self) -> bool:
        """Whether it lived long enough to judge whether memory and descriptors are stable."""
        return self.minutes >= SETTLED_MINUTES

    @property
    def growth(self) -> float:
        """Bytes by which peak memory rose from the middle third to the last."""
        return self.highest[2] - self.highest[1]

    @property
    def opened(self) -> float:
        """Increase of descriptors from the middle third to the last."""
        return self.descriptors[2] - self.descriptors[1]


def growth(life: Life) -> Iterator[str]:
    """Yields one message for each resource of a worker that grows."""
    if life.settled and life.growth > TOLERANCE:
        yield f"a worker's memory still grows: at most {', '.join(f'{size / 1e6:.0f} MB' for size in life.highest)}"
    if life.settled and life.opened > MORE_OPEN:
        yield f"a worker's descriptors grow: {life.descriptors}"


def life(held: Sequence[Resources]) -> Life | None:
    """Returns the life of one worker from its samples; None if a third has no sample."""
    begin, lived = held[0].at, held[-1].at - held[0].at
    thirds: list[list[Resources]] = [[], [], []]
    for one in held:
        thirds[min(2, int(3 * (one.at - begin) / lived)) if lived else 0].append(one)
    if not all(thirds):
        return None
    return Life(
        lived / 60,
        tuple(statistics.median(one.resident for one in third) for third in thirds),
        tuple(max(one.resident for one in third) for third in thirds),
        tuple(statistics.median(one.descriptors for one in third) for third in thirds),
    )


class Watch:
    """Observes a pipeline, and keeps the observations."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.observations: list[Observation] = []
        self.held: list[Resources] = []
        self._folded = 0
        self.moved: list[float] = []
        """Times (monotonic, s) at which fold had made progress."""

    async def run(self) -> None:
        """Observes until it is cancelled."""
        while True:
            with suppress(StormfoldError, TimeoutError, OSError):
                async with AsyncExitStack() as stack:
                    async with asyncio.timeout(TIMEOUT):
                        tail = await stack.enter_async_context(open_reader(self._world.settings))
                    for _ in range(FRESH):
                        async with asyncio.timeout(TIMEOUT):
                            await self._observe(tail)
                        await asyncio.sleep(EVERY)
            await asyncio.sleep(EVERY)

    def before(self) -> Observation:
        """Returns the recent state, with medians of lag and delay."""
        last = self.observations[-BASE:]
        assert last, "no observation yet"
        return last[-1]._replace(
            unread=round(statistics.median(seen.unread for seen in last)),
            behind=statistics.median(seen.behind for seen in last),
        )

    async def recovered(self, before: Observation, since: float, slack: int, seconds: float) -> float:
        """Waits until the state is as before, with up to `slack` more records; returns the time of that observation."""

        def recovered_at() -> float:
            if not self.observations or self.observations[-1].at <= since:
                return 0.0
            seen = self.observations[-1]
            caught_up = seen.unread <= before.unread + slack and seen.behind <= before.behind + 2.0
            return seen.at if caught_up and seen.unwritten <= before.unwritten + 20 and not seen.problems else 0.0

        try:
            return float(await until(recovered_at, seconds))
        except AssertionError as error:
            raise AssertionError(
                f"not recovered after {seconds:.0f} s: {before}, now {self.observations[-1]}"
            ) from error

    def longest_stop(self, begin: float, end: float) -> float:
        """Returns the longest time without progress (s) that overlaps the time between."""
        last = max((at for at in self.moved if at <= begin), default=begin)
        moments = [last, *(at for at in self.moved if begin < at <= end), end]
        return max(later - earlier for earlier, later in pairwise(moments))

    def lives(self, seconds: float) -> list[Life]:
        """Returns the lives of the workers that were watched for at least this long."""
        found = []
        for pid in dict.fromkeys(held.pid for held in self.held):
            mine = [held for held in self.held if held.pid == pid]
            lived = mine[-1].at - mine[0].at
            if lived >= seconds and (one := life(mine)):
                found.append(one)
        return found

    async def _observe(self, tail: TopicReader) -> None:
        world = self._world
        self.held += self._sample()
        settings = world.settings
        async with connect(settings) as redis:
            store = Store(redis, settings.redis_prefix)
            state = await store.load()
            if state is None:
                return
            clock = await store.clock(state.version)
        folded = {p: at.offset for p, at in state.positions.items()}
        if sum(folded.values()) > self._folded:
            self._folded = sum(folded.values())
            self.moved.append(time.monotonic())
        if clock.horizon is None:
            return
        unread = await self._unread(tail, settings.keyed_topic, folded)
        unread += await self._uncommitted(tail, settings, "intake", settings.alerts_topic)
        emitting = [settings, *([world.others.settings] if world.others else [])]
        unwritten = sum([await self._uncommitted(tail, each, "emit", each.storms_topic) for each in emitting])
        behind = time.time() - clock.horizon / 1000
        problems = tuple(filter(None, await asyncio.gather(*(slot.problem() for slot in world.all_workers))))
        self.observations.append(
            Observation(time.monotonic(), unread, unwritten, clock.open_groups, self._folded, behind, problems)
        )

    async def _unread(self, tail: TopicReader, topic: str, reached: dict[int, int]) -> int:
        return sum(max(0, end - reached.get(p, 0)) for p, end in (await tail.end_offsets(topic)).items())

    async def _uncommitted(self, tail: TopicReader, settings: Settings, stage: str, topic: str) -> int:
        committed = await read_committed(settings, settings.consumer_group(stage), topic)
        return await self._unread(tail, topic, {p: offset for p, (offset, _) in committed.items()})

    def _sample(self) -> Iterator[Resources]:
        for slot in self._world.all_workers:
            assert slot.process is not None
            with suppress(OSError):
                yield Resources(time.monotonic(), slot.process.pid, slot.resident(), slot.descriptors())
