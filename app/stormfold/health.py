"""Health of a worker: which components cannot do their work or have stopped, why, since when, and what to do."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class Member(Protocol):
    """A stage's member of its consumer group, as health and metrics see it: see `kafka.group_member.GroupMember`."""

    name: str
    """The stage, which is also the name of the component."""
    generation: int
    unmanaged: set[int]
    quarantined: dict[int, str]
    polled: set[int]
    positions: dict[int, int]
    event_times: dict[int, int]

    @property
    def lag(self) -> Mapping[int, int]:
        """Records that can be read and that the stage has not processed, by partition."""

    @property
    def unstable_lag(self) -> Mapping[int, int]:
        """Records that cannot be read until an open transaction ends, by partition."""

    def assigned(self) -> set[int]:
        """Partitions assigned to this member."""


QUARANTINED_HINT = "if their topic was recreated, run `stormfold topics --reset-positions`"
STALE_HINT = "restart the worker; unfinished work is repeated and counted once"


@dataclass(frozen=True, slots=True)
class Problem:
    """The reason why a component cannot do its work, or a warning about it."""

    component: str
    problem: str
    since: float
    """Wall-clock time (s)."""
    hint: str | None = None


class Health:
    """Components report heartbeats and problems. A component without a heartbeat for `timeout` seconds is stale.

    `members` returns the consumers of the running stages; each of them is a component from the start.
    """

    def __init__(self, members: Callable[[], Sequence[Member]] = list, timeout: float = 60.0) -> None:
        self.members = members
        self.timeout = timeout
        self.heartbeats: dict[str, float] = {}
        """Component → monotonic time (s) of its last heartbeat."""
        self.reported: dict[str, Problem] = {}
        """Component → the problem that it reported itself."""
        self.warnings: dict[str, Problem] = {}
        """Component → a problem that does not keep the worker from its work."""
        self.read_by_lease: dict[str, tuple[Mapping[int, int], Mapping[int, int]]] = {}
        """Stage that reads a topic without being a member of a group → its lag and its positions, by partition."""
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

    def set_warning(self, name: str, problem: str, hint: str | None = None) -> bool:
        """Records a problem that does not keep the component from its work; True if it is new."""
        before = self.warnings.get(name)
        self.warnings[name] = Problem(name, problem, before.since if before else time.time(), hint)
        return before is None or before.problem != problem

    def clear_warning(self, name: str) -> None:
        """Records that the problem is over."""
        self.warnings.pop(name, None)

    def stale(self) -> list[str]:
        """Components without a heartbeat for longer than `timeout`, sorted."""
        names = {*self.heartbeats, *(member.name for member in self.members())}
        return sorted(name for name in names if self._silence(name) > self.timeout)

    def problems(self) -> list[Problem]:
        """Everything that keeps the worker from its work, one problem for each component; empty if it is ready."""
        waiting = {member.name: problem for member in self.members() if (problem := self._waiting(member))}
        found = waiting | self.reported
        for name in self.stale():
            silence = self._silence(name)
            found[name] = Problem(name, f"no heartbeat for {silence:.0f} s", time.time() - silence, STALE_HINT)
        return [found[name] for name in sorted(found)]

    def _silence(self, name: str) -> float:
        return time.monotonic() - self.heartbeats.get(name, self._started)

    def _waiting(self, member: Member) -> Problem | None:
        """What a stage that reports no problem still waits for."""
        assigned = member.assigned()
        readable = assigned - member.unmanaged - member.quarantined.keys()
        hint = None
        if member.name not in self.heartbeats or (not assigned and member.generation <= 1):
            problem = "it is joining its consumer group"
        elif readable and not readable & member.polled:
            problem = "it has not read any of its partitions yet"
        elif member.quarantined:
            reasons = ", ".join(f"{partition}: {reason}" for partition, reason in sorted(member.quarantined.items()))
            problem, hint = f"partitions are not read: {reasons}", QUARANTINED_HINT
        else:
            return None
        return Problem(member.name, problem, self._started_at, hint)
