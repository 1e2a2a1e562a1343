"""Health of a worker: which components cannot do their work or have stopped, why, since when, and what to do."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class Feed(Protocol):
    """The consumer of a stage's topic, as health and metrics see it. Mappings have partitions as keys."""

    name: str
    """The stage, which is also the component's name."""
    generation: int
    """Assignments and rewinds so far; at most 1 before the first assignment."""
    unmanaged: set[int]
    """Unmanaged partitions: not part of the state version."""
    polled: set[int]
    """Partitions that were polled."""

    @property
    def quarantined(self) -> Mapping[int, str]:
        """Quarantined partitions, with the reason."""

    @property
    def positions(self) -> Mapping[int, int]:
        """The next offset to process."""

    @property
    def event_times(self) -> Mapping[int, int]:
        """Event time (ms) that the stage has reached."""

    @property
    def lag(self) -> Mapping[int, int]:
        """Records that the stage has not processed yet."""

    def assigned(self) -> set[int]:
        """Partitions assigned to this consumer."""


QUARANTINED_HINT = "if their topic was recreated, run `stormfold topics --reset-positions`"
STALE_HINT = "restart the worker; unfinished work is repeated and counted once"


@dataclass(frozen=True, slots=True)
class Problem:
    """The reason why a component cannot do its work."""

    component: str
    problem: str
    since: float
    """Wall-clock time (s)."""
    hint: str | None = None


class Health:
    """Components report heartbeats and problems. A component without a heartbeat for `timeout` seconds is stale.

    `feeds` returns the consumers of the running stages; each of them is a component from the start.
    """

    def __init__(self, feeds: Callable[[], Sequence[Feed]] = list, timeout: float = 60.0) -> None:
        self.feeds = feeds
        self.timeout = timeout
        self.heartbeats: dict[str, float] = {}
        """Component → monotonic time (s) of its last heartbeat."""
        self.reported: dict[str, Problem] = {}
        """Component → the problem that it reported itself."""
        self._started, self._started_at = time.monotonic(), time.time()

    def heartbeat(self, name: str) -> None:
        """Records that the component is running, whether it had work or not."""
        self.heartbeats[name] = time.monotonic()

    def set_unhealthy(self, name: str, problem: str, hint: str | None = None) -> bool:
        """Records why the component cannot do its work; True if the problem is new."""
        self.heartbeat(name)
        before = self.reported.get(name)
        self.reported[name] = Problem(name, problem, before.since if before else time.time(), hint)
        return before is None or before.problem != problem

    def set_healthy(self, name: str) -> None:
        """Records that the component does its work."""
        self.heartbeat(name)
        self.reported.pop(name, None)

    def clear(self, name: str, problem: str) -> None:
        """Clears this problem; a different one that was reported since stays."""
        if name in self.reported and self.reported[name].problem == problem:
            self.set_healthy(name)

    def stale(self) -> list[str]:
        """Components without a heartbeat for longer than `timeout`, sorted."""
        names = {*self.heartbeats, *(feed.name for feed in self.feeds())}
        return sorted(name for name in names if self._silence(name) > self.timeout)

    def problems(self) -> list[Problem]:
        """Everything that keeps the worker from its work, one problem for each component; empty if it is ready."""
        waiting = {feed.name: problem for feed in self.feeds() if (problem := self._waiting(feed))}
        found = waiting | self.reported
        for name in self.stale():
            silence = self._silence(name)
            found[name] = Problem(name, f"no heartbeat for {silence:.0f} s", time.time() - silence, STALE_HINT)
        return [found[name] for name in sorted(found)]

    def _silence(self, name: str) -> float:
        return time.monotonic() - self.heartbeats.get(name, self._started)

    def _waiting(self, feed: Feed) -> Problem | None:
        """What a stage that reports no problem still waits for."""
        assigned = feed.assigned()
        readable = assigned - feed.unmanaged - feed.quarantined.keys()
        hint = None
        if feed.name not in self.heartbeats or (not assigned and feed.generation <= 1):
            problem = "it is joining its consumer group"
        elif readable and not readable & feed.polled:
            problem = "it has not read any of its partitions yet"
        elif feed.quarantined:
            reasons = ", ".join(f"{partition}: {reason}" for partition, reason in sorted(feed.quarantined.items()))
            problem, hint = f"partitions are not read: {reasons}", QUARANTINED_HINT
        else:
            return None
        return Problem(feed.name, problem, self._started_at, hint)
