"""What is wrong with a worker, from its parts' own account: which do not get on at all, which can't do their work."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from stormfold.health import Health


class Feed(Protocol):
    """What reads a stage's topic."""

    name: str
    """The stage's; its part's name in `Health` too."""
    generation: int
    """Number of assignments and rewinds so far; 1 or less before the first assignment."""
    foreign: set[int]
    """Partitions that nothing of ours is in."""

    @property
    def refused(self) -> Mapping[int, str]:
        """Partitions that are not read, and why."""

    read: set[int]
    """Partitions that were polled."""

    @property
    def done(self) -> Mapping[int, int]:
        """Where the stage goes on, by partition: an offset."""

    @property
    def reached(self) -> Mapping[int, int]:
        """Event time (ms) that the stage has come to, by partition."""

    @property
    def lag(self) -> Mapping[int, int]:
        """Records that the stage has not acted upon, by partition."""

    @property
    def lost(self) -> Mapping[int, int]:
        """Records that retention took unread, by partition."""

    def assigned(self) -> set[int]:
        """This member's partitions."""


REFUSED = "if their topic was created anew, run `stormfold topics --reset-positions`"
Feeds = Callable[[], Sequence[Feed]]
"""Those of the stages that run."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a worker is not ready."""

    component: str
    problem: str
    since: float
    """Wall-clock time (s)."""
    hint: str | None = None


class State:
    """Judges a worker's parts: its stages, and whatever else tells health of itself."""

    def __init__(self, health: Health, feeds: Feeds) -> None:
        self._health = health
        self._feeds = feeds
        self._started = time.time()

    def dead(self) -> list[str]:
        """Parts that have not come round for longer than health's patience, or never did in that time."""
        silent = [feed.name for feed in self._feeds() if feed.name not in self._health.components]
        waited = time.time() - self._started > self._health.timeout
        return sorted({*self._health.stale(), *(silent if waited else ())})

    def problems(self) -> list[Problem]:
        """What keeps the worker from its work; empty if it is ready."""
        parts = self._health.components
        found = {
            name: Problem(name, part.problem or "", part.since, part.hint)
            for name, part in self._health.problems().items()
        }
        for feed in self._feeds():
            if feed.name not in found and (waiting := self._waiting(feed)):
                found[feed.name] = waiting
        for name in self.dead():
            silence = time.monotonic() - parts[name].last_heartbeat if name in parts else time.time() - self._started
            found[name] = Problem(
                name, f"no sign of life for {silence:.0f} s", time.time() - silence,
                "restart the worker; what it was doing is done again, once",
            )  # fmt: skip
        return [found[name] for name in sorted(found)]

    def _waiting(self, feed: Feed) -> Problem | None:
        """What a stage that has no problem of its own still waits for."""
        mine = feed.assigned()
        unread = mine - feed.foreign - feed.refused.keys()
        if feed.name not in self._health.components or (not mine and feed.generation <= 1):
            why = "it is joining its consumer group"
        elif unread and not unread & feed.read:
            why = "it has not read any of its partitions yet"
        elif feed.refused:
            places = ", ".join(f"{partition}: {why}" for partition, why in sorted(feed.refused.items()))
            return Problem(feed.name, f"partitions are not read: {places}", self._started, REFUSED)
        else:
            return None
        return Problem(feed.name, why, self._started)
