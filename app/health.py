"""How each part of the worker does, by its own account: when it last got on, and what keeps it from its work."""

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Part:
    """One part: a stage, or a server behind it."""

    alive: float
    """Monotonic time (s) of its last round."""
    trouble: str | None = None
    advice: str | None = None
    since: float = 0.0
    """Wall-clock time (s) since which it is in trouble."""


@dataclass(slots=True)
class Health:
    """The worker's parts. A part that has not come round within `patience` seconds is taken for dead."""

    patience: float = 60.0
    parts: dict[str, Part] = field(default_factory=dict)

    def alive(self, name: str) -> None:
        """The part has come round, whether it had anything to do or not."""
        part = self.parts.get(name)
        if part is None:
            self.parts[name] = Part(time.monotonic())
        else:
            part.alive = time.monotonic()

    def ill(self, name: str, trouble: str, advice: str | None = None) -> bool:
        """The part can't do its work; True if that is news."""
        part = self.parts.setdefault(name, Part(time.monotonic()))
        part.alive = time.monotonic()
        news = part.trouble != trouble
        if part.trouble is None:
            part.since = time.time()
        part.trouble, part.advice = trouble, advice
        return news

    def well(self, name: str) -> None:
        """The part does its work."""
        part = self.parts.setdefault(name, Part(time.monotonic()))
        part.alive, part.trouble, part.advice = time.monotonic(), None, None

    def over(self, name: str, trouble: str) -> None:
        """That trouble is over; another one that was told of since is not."""
        if name in self.parts and self.parts[name].trouble == trouble:
            self.well(name)

    def dead(self) -> list[str]:
        """Parts that have not come round for too long."""
        now = time.monotonic()
        return [name for name, part in self.parts.items() if now - part.alive > self.patience]

    def troubles(self) -> dict[str, Part]:
        """Parts that can't do their work."""
        return {name: part for name, part in self.parts.items() if part.trouble is not None}
