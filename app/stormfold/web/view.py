"""What the status page shows, as plain data. Times are milliseconds since the epoch."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """How a server answers."""

    address: str
    at: int | None = None
    """When it last answered; None: not yet."""
    problem: str | None = None
    """Why it does not answer now: then all that is shown of it is as of `at`."""
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """What is forming."""

    pattern: str
    route: str
    silenced: bool
    severity: str
    alerts: int
    distinct: int
    resources: int
    exact: bool
    """False: `distinct` and `resources` are lower bounds."""
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Storm:
    """What was published."""

    name: str
    pattern: str
    severity: str
    alerts: int
    distinct: int
    resources: int
    exact: bool
    first: int
    last: int
    written: bool | None
    """Whether it has been handed to the sink; None: it is not meant to be."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Where a stage is in a partition of its topic."""

    number: int
    behind: int
    """Records."""
    reached: int | None
    """Event time that it has come to; None: unknown."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a stage is in its topic."""

    name: str
    topic: str
    partitions: Sequence[Partition]

    @property
    def behind(self) -> int:
        """Records, in all partitions."""
        return sum(partition.behind for partition in self.partitions)


@dataclass(frozen=True, slots=True)
class Memory:
    """Of Redis, in bytes."""

    used: int
    maximum: int
    """0: no limit."""
    fragmentation: float
    evicted: int
    refused: int
    """Fold calls of this worker that a full Redis refused."""


@dataclass(frozen=True, slots=True)
class Line:
    """Of this worker's log, without credentials."""

    at: int
    level: str
    logger: str
    message: str
    details: str


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All of it, at one moment."""

    at: int
    worker: str
    """Where it runs, and which stages."""
    kafka: Source
    redis: Source
    epoch: int | None = None
    horizon: int | None = None
    closed_until: int | None = None
    open: int | None = None
    """Open groups; None: unknown."""
    seen: int = 0
    """How many of them were looked at for the largest."""
    forming: Sequence[Group] = ()
    recent: Sequence[Storm] = ()
    """Newest first."""
    stages: Sequence[Stage] = ()
    memory: Memory | None = None
    log: Sequence[Line] = ()
    """Warnings and errors, newest first."""
