"""What the parts measure, as the results file has it; each part is measured, and merged into the file, by itself.

Seconds and bytes where a name says nothing else. `Runs` has one value for each round.
"""

import os
import platform
import time
from pathlib import Path

import msgspec

from stormfold.local.kafka import VERSION as KAFKA
from stormfold.local.redis import find_servers

RESULTS = Path(__file__).with_name("results.json")

Runs = list[float]


class Machine(msgspec.Struct, frozen=True):
    """What it was measured on."""

    cores: int
    memory_gb: int
    python: str
    kafka: str
    redis: str


class Run(msgspec.Struct, frozen=True):
    """How a part was measured."""

    date: str
    rounds: int
    quick: bool
    """Sizes so small that the figures mean nothing."""
    machine: Machine


class Times(msgspec.Struct, frozen=True):
    """µs an alert."""

    serialise: Runs
    deserialise: Runs
    redis: Runs
    p50: Runs
    p99: Runs
    alone: Runs
    """p50 of an alert in a call of its own."""


class Form(msgspec.Struct, frozen=True):
    """One way to keep storms with so many affected resources."""

    form: str
    resources: int
    written: int
    """Bytes that an alert has written: the whole value, or its own record."""
    times: Times
    bytes_each: float
    """Redis memory for each open storm."""
    fit: int
    """Open storms when Redis refused the next."""


class Churn(msgspec.Struct, frozen=True):
    """Redis after many windows of storms that were opened and closed, nine of ten each time."""

    form: str
    windows: int
    used: int
    peak: int
    resident: int
    fragmentation: float


class Claim(msgspec.Struct, frozen=True):
    """Whole resource, compact JSON and fold, side by side."""

    run: Run
    maxmemory_mb: int
    forms: list[Form]
    churn: list[Churn]


class Usage(msgspec.Struct, frozen=True):
    """CPU seconds."""

    worker: float
    broker: float
    redis: float


class Taken(msgspec.Struct, frozen=True):
    """A backlog that workers took up."""

    count: int
    """Alerts or storms."""
    wall: float
    cpu: Usage
    resident: list[int]
    """Memory of the first worker, twice a second."""


class Throughput(msgspec.Struct, frozen=True):
    """Backlogs by what was measured."""

    run: Run
    pipeline: dict[str, list[Taken]]
    """Intake and fold in one worker, by load."""
    stages: dict[str, list[Taken]]
    """One stage alone."""


class Point(msgspec.Struct, frozen=True):
    """One size, and the CPU µs an alert there."""

    size: int
    worker: Runs
    redis: Runs
    broker: Runs
    wall: Runs
    """µs of wall time an alert."""


class Growth(msgspec.Struct, frozen=True):
    """Cost by what grows."""

    run: Run
    curves: dict[str, list[Point]]


class Delay(msgspec.Struct, frozen=True):
    """Latency at one load, seconds."""

    load: float
    """Share of capacity that was asked for."""
    asked: float
    """Alerts a second."""
    sent: Runs
    folded_p50: Runs
    folded_p99: Runs
    present_p50: Runs
    present_p99: Runs


class Latency(msgspec.Struct, frozen=True):
    """How long an alert and a storm take, and how a backlog is caught up."""

    run: Run
    capacity: float
    """Alerts a second that one worker takes up of a backlog."""
    delays: list[Delay]
    catch_up: list[Taken]


class Million(msgspec.Struct, frozen=True):
    """Distinct open alerts in a Redis of 512 MB."""

    run: Run
    alerts: int
    groups: int
    open_alerts: int
    """Counted in Redis afterwards."""
    listed: int
    refused: int
    used: int
    empty: int
    resident: int
    fragmentation: float
    allocator: float
    """Fragmentation within the allocator alone: without the program, Lua and pages that are kept free."""
    wall: float


class Peer(msgspec.Struct, frozen=True):
    """One stream processor at the same work."""

    name: str
    version: str
    killed: str
    """What a kill -9 costs it."""
    runs: list[Taken]
    missing: str = ""
    """Why it was not run."""


class Peers(msgspec.Struct, frozen=True):
    """stormfold first."""

    run: Run
    peers: list[Peer]


class Profile(msgspec.Struct, frozen=True):
    """Where a worker's time goes in a backlog."""

    run: Run
    samples: int
    shares: dict[str, float]
    """By source file; own time only, the largest first."""


class Results(msgspec.Struct, frozen=True, omit_defaults=True):
    """The file."""

    claim: Claim | None = None
    throughput: Throughput | None = None
    growth: Growth | None = None
    latency: Latency | None = None
    million: Million | None = None
    peers: Peers | None = None
    profile: Profile | None = None


def load(path: Path = RESULTS) -> Results:
    """Reads the file; nothing if there is none."""
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.exists() else Results()


def save(results: Results, path: Path = RESULTS) -> None:
    """Writes it, in the form of which git shows differences best."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def this_run(rounds: int, quick: bool) -> Run:
    """A run that begins now, on this machine."""
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = Machine(
        cores=os.cpu_count() or 0,
        memory_gb=round(pages / 2**30),
        python=platform.python_version(),
        kafka=KAFKA,
        redis=str(find_servers()[0]),
    )
    return Run(time.strftime("%Y-%m-%d", time.gmtime()), rounds, quick, machine)
