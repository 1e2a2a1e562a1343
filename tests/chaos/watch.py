"""Looks at a running pipeline from outside, twice a second: how far it is behind, whether it moves, what it holds."""

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
"""Seconds between two looks: the finest that a stop is measured."""
PATIENCE = 3.0
"""Longest that a look may take: longer than that nobody answers."""
FRESH = 20
"""Looks through one connection: topics may get partitions."""
SETTLED_MINUTES = 10.0
"""What a worker holds must stay after a third of so long. Two memos of 64 MB (`app/stormfold/series.py`,
`app/stormfold/merge.py`) fill first, with about 64,000 series in three minutes of this load, and 120 MB. Then they are
cleared, and memory varies by about 20 MB."""
TOLERANCE = 16e6
"""Bytes that memory at its highest may still grow by: both thirds have those ups and downs, not a backlog."""
MORE_OPEN = 8
"""Descriptors more that are as good as none: clients reconnect to each of two brokers when they need it, and end what
they have not used for nine minutes."""
BASE = 6
"""Looks that say how it was before."""


class Look(NamedTuple):
    """One look that succeeded."""

    at: float
    """Monotonic time (s)."""
    unread: int
    """Records that intake and fold have not done yet."""
    unwritten: int
    """Storms that emit has not done yet."""
    open: int
    """Groups with something not yet closed."""
    folded: int
    """Σ of the positions of the keyed topic, never falling: what is folded again is no progress."""
    behind: float
    """Seconds between now and the horizon."""
    problems: tuple[str, ...]
    """Of the workers that are not ready."""


class Held(NamedTuple):
    """What one worker holds."""

    at: float
    pid: int
    resident: int
    """Bytes."""
    descriptors: int


class Life(NamedTuple):
    """What one worker held, in each third of the time that it was watched."""

    minutes: float
    resident: tuple[float, ...]
    """Bytes, medians."""
    highest: tuple[float, ...]
    """Bytes, at most."""
    descriptors: tuple[float, ...]
    """Medians."""

    @property
    def settled(self) -> bool:
        """Whether it lived long enough to tell that what it holds stays."""
        return self.minutes >= SETTLED_MINUTES

    @property
    def growth(self) -> float:
        """Bytes by which memory at its highest rose from the middle third to the last."""
        return self.highest[2] - self.highest[1]

    @property
    def opened(self) -> float:
        """Descriptors more in the last third than in the middle one."""
        return self.descriptors[2] - self.descriptors[1]


def growth(life: Life) -> Iterator[str]:
    """What is wrong with what a worker held."""
    if life.settled and life.growth > TOLERANCE:
        yield f"a worker's memory still grows: at most {', '.join(f'{size / 1e6:.0f} MB' for size in life.highest)}"
    if life.settled and life.opened > MORE_OPEN:
        yield f"a worker's descriptors grow: {life.descriptors}"


def life(held: Sequence[Held]) -> Life | None:
    """One worker's, from all that was seen of it; None if it was not seen in each third."""
    begin, lived = held[0].at, held[-1].at - held[0].at
    thirds: list[list[Held]] = [[], [], []]
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


class RedisMonitor:
    """Keeps its looks."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.looks: list[Look] = []
        self.held: list[Held] = []
        self._folded = 0
        self.moved: list[float] = []
        """Moments (monotonic, s) at which fold was seen to have got further."""

    async def run(self) -> None:
        """Looks for ever."""
        while True:
            with suppress(StormfoldError, TimeoutError, OSError):
                async with AsyncExitStack() as stack:
                    async with asyncio.timeout(PATIENCE):
                        tail = await stack.enter_async_context(open_reader(self._world.settings))
                    for _ in range(FRESH):
                        async with asyncio.timeout(PATIENCE):
                            await self._look(tail)
                        await asyncio.sleep(EVERY)
            await asyncio.sleep(EVERY)

    def before(self) -> Look:
        """How it has been lately."""
        last = self.looks[-BASE:]
        assert last, "nothing has been seen yet"
        return last[-1]._replace(
            unread=round(statistics.median(look.unread for look in last)),
            behind=statistics.median(look.behind for look in last),
        )

    async def recovered(self, before: Look, since: float, slack: int, seconds: float) -> float:
        """Waits until all is as it was before, `slack` records more allowed; returns the moment that was so."""

        def well() -> float:
            if not self.looks or self.looks[-1].at <= since:
                return 0.0
            look = self.looks[-1]
            caught_up = look.unread <= before.unread + slack and look.behind <= before.behind + 2.0
            return look.at if caught_up and look.unwritten <= before.unwritten + 20 and not look.problems else 0.0

        try:
            return float(await until(well, seconds))
        except AssertionError as error:
            raise AssertionError(f"not as before after {seconds:.0f} s: {before}, now {self.looks[-1]}") from error

    def longest_stop(self, begin: float, end: float) -> float:
        """Seconds of the longest span without progress that touches the time between."""
        last = max((at for at in self.moved if at <= begin), default=begin)
        moments = [last, *(at for at in self.moved if begin < at <= end), end]
        return max(later - earlier for earlier, later in pairwise(moments))

    def lives(self, seconds: float) -> list[Life]:
        """Of the workers that were watched for at least so long."""
        found = []
        for pid in dict.fromkeys(held.pid for held in self.held):
            mine = [held for held in self.held if held.pid == pid]
            lived = mine[-1].at - mine[0].at
            if lived >= seconds and (one := life(mine)):
                found.append(one)
        return found

    async def _look(self, tail: TopicReader) -> None:
        world = self._world
        self.held += self._hold()
        settings = world.settings
        async with connect(settings) as redis:
            store = Store(redis, settings.redis_prefix)
            state = await store.load()
            if state is None:
                return
            clock = await store.clock(state.epoch)
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
        problems = tuple(filter(None, await asyncio.gather(*(slot.problem() for slot in world.everybody))))
        self.looks.append(Look(time.monotonic(), unread, unwritten, clock.open_groups, self._folded, behind, problems))

    async def _unread(self, tail: TopicReader, topic: str, reached: dict[int, int]) -> int:
        return sum(max(0, end - reached.get(p, 0)) for p, end in (await tail.ends(topic)).items())

    async def _uncommitted(self, tail: TopicReader, settings: Settings, stage: str, topic: str) -> int:
        committed = await read_committed(settings, settings.consumer_group(stage), topic)
        return await self._unread(tail, topic, {p: offset for p, (offset, _) in committed.items()})

    def _hold(self) -> Iterator[Held]:
        for slot in self._world.everybody:
            assert slot.process is not None
            with suppress(OSError):
                yield Held(time.monotonic(), slot.process.pid, slot.resident(), slot.descriptors())
