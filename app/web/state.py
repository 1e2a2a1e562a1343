"""What is wrong with a worker, from its parts' own account: which do not get on at all, which can't do their work."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.health import Health


class Feed(Protocol):
    """What reads a stage's topic."""

    generation: int
    """Number of assignments and rewinds so far; 1 or less before the first assignment."""
    foreign: set[int]
    """Partitions that nothing of ours is in."""

    @property
    def refused(self) -> Mapping[int, str]:
        """Partitions that are not read, and why."""

    @property
    def lag(self) -> Mapping[int, int]:
        """Records not yet read, by partition."""

    @property
    def lost(self) -> Mapping[int, int]:
        """Records that retention took unread, by partition."""

    def assigned(self) -> set[int]:
        """This member's partitions."""


class Stage(Protocol):
    """A stage fed by a topic."""

    @property
    def name(self) -> str:
        """Its part's name in `Health` too."""

    @property
    def ingest(self) -> Feed:
        """What feeds it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a worker is not ready."""

    part: str
    why: str
    since: float
    """Wall-clock time (s)."""
    advice: str | None = None


class State:
    """Judges a worker's parts: its stages, and whatever else tells health of itself."""

    def __init__(self, health: Health, stages: Sequence[Stage]) -> None:
        self._health = health
        self._stages = stages
        self._started = time.time()

    def dead(self) -> list[str]:
        """Parts that have not come round for longer than health's patience, or never did in that time."""
        silent = [stage.name for stage in self._stages if stage.name not in self._health.parts]
        waited = time.time() - self._started > self._health.patience
        return sorted({*self._health.dead(), *(silent if waited else ())})

    def problems(self) -> list[Problem]:
        """What keeps the worker from its work; empty if it is ready."""
        parts = self._health.parts
        found = {
            name: Problem(name, part.trouble or "", part.since, part.advice)
            for name, part in self._health.troubles().items()
        }
        for stage in self._stages:
            if stage.name not in found and (why := self._waiting(stage)):
                found[stage.name] = Problem(stage.name, why, self._started)
        for name in self.dead():
            silence = time.monotonic() - parts[name].alive if name in parts else time.time() - self._started
            found[name] = Problem(
                name, f"no sign of life for {silence:.0f} s", time.time() - silence,
                "restart the worker; what it was doing is done again, once",
            )  # fmt: skip
        return [found[name] for name in sorted(found)]

    def _waiting(self, stage: Stage) -> str | None:
        """What a stage without troubles still waits for."""
        feed = stage.ingest
        mine = feed.assigned()
        if stage.name not in self._health.parts or (not mine and feed.generation <= 1):
            return "it is joining its consumer group"
        if feed.refused:
            refused = ", ".join(f"{partition} ({why})" for partition, why in sorted(feed.refused.items()))
            return f"partitions are not read: {refused}"
        to_read = mine - feed.foreign
        if to_read and not to_read & feed.lag.keys():
            return "it has not read any of its partitions yet"
        return None
