"""The results of all parts as the results file holds them. Each part is measured and merged into the file on its own.

Units are seconds and bytes unless a name states another unit. `Runs` has one value for each round.
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
    """The machine and the versions of its servers."""

    cores: int
    memory_gb: int
    python: str
    kafka: str
    redis: str


class Run(msgspec.Struct, frozen=True):
    """Date, size and machine of a measurement."""

    date: str
    rounds: int
    quick: bool
    """Whether the sizes were too small for meaningful figures."""
    machine: Machine


class Times(msgspec.Struct, frozen=True):
    """Microseconds for one alert."""

    serialise: Runs
    deserialise: Runs
    redis: Runs
    p50: Runs
    p99: Runs
    alone: Runs
    """p50 of an alert in a call of its own."""


class Form(msgspec.Struct, frozen=True):
    """One way to keep storms, with `resources` affected resources each."""

    form: str
    resources: int
    written: int
    """Bytes that are written for one alert: the whole value, or its own record."""
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
    """Whole resource, compact JSON and fold compared."""

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
    """A backlog that workers processed."""

    count: int
    """Alerts or storms."""
    wall: float
    cpu: Usage
    resident: list[int]
    """Memory of the first worker, twice a second."""


class Throughput(msgspec.Struct, frozen=True):
    """Backlogs by load and by stage."""

    run: Run
    pipeline: dict[str, list[Taken]]
    """Intake and fold in one worker, by load."""
    stages: dict[str, list[Taken]]
    """One stage alone."""


class Compressed(msgspec.Struct, frozen=True):
    """A worker with one compression of the keyed topic."""

    bytes_each: Runs
    """Bytes on disk for each alert."""
    runs: list[Taken]


class Compression(msgspec.Struct, frozen=True):
    """The keyed topic, by compression."""

    run: Run
    codecs: dict[str, Compressed]


class Point(msgspec.Struct, frozen=True):
    """One size, and the CPU time of one alert at it (µs)."""

    size: int
    worker: Runs
    redis: Runs
    broker: Runs
    wall: Runs
    """Wall time of one alert (µs)."""


class Growth(msgspec.Struct, frozen=True):
    """Curves of the cost of an alert, by the quantity that grows."""

    run: Run
    curves: dict[str, list[Point]]


class Delay(msgspec.Struct, frozen=True):
    """Latency at one load (s)."""

    load: float
    """Requested share of the capacity."""
    asked: float
    """Requested alerts a second."""
    sent: Runs
    folded_p50: Runs
    folded_p99: Runs
    present_p50: Runs
    present_p99: Runs


class Latency(msgspec.Struct, frozen=True):
    """Latency of alerts and storms, and time to catch up."""

    run: Run
    capacity: float
    """Alerts a second that one worker processes of a backlog."""
    delays: list[Delay]
    catch_up: list[Taken]


class Million(msgspec.Struct, frozen=True):
    """Distinct open alerts in a Redis of 512 MB."""

    run: Run
    alerts: int
    groups: int
    open_alerts: int
    """Open alerts counted in Redis at the end."""
    listed: int
    refused: int
    used: int
    empty: int
    resident: int
    """After the allocator has returned the pages that it does not need."""
    resident_at_once: int
    """When the last alert was folded."""
    fragmentation: float
    allocator: float
    """Fragmentation within the allocator: without the program, Lua and free pages."""
    wall: float


class Work(msgspec.Struct, frozen=True):
    """What a program does with the alerts."""

    keeps_members: bool
    """Whether it keeps count, newest time and resource of each fingerprint; otherwise it counts the group's alerts."""
    windows: str
    """`session` or `tumbling`."""
    exactly_once: bool
    """Whether each alert is counted once after kill -9, too."""


class Peer(msgspec.Struct, frozen=True):
    """One stream processor with one load."""

    name: str
    version: str
    killed: str
    """The effect of kill -9 on its counts."""
    work: Work
    members: int
    """Members of each group, whether it keeps them or not."""
    runs: list[Taken]
    missing: str = ""
    """The reason why it was not run."""


class Peers(msgspec.Struct, frozen=True):
    """The stream processors, stormfold first with each number of members."""

    run: Run
    peers: list[Peer]


class Profile(msgspec.Struct, frozen=True):
    """Shares of a worker's time while it processes a backlog."""

    run: Run
    samples: int
    shares: dict[str, float]
    """Share of own time by source file, the largest first."""


class Receive(msgspec.Struct, frozen=True):
    """Request bodies that `stormfold receive` accepted, by load."""

    run: Run
    loads: dict[str, list[Taken]]


class Results(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of the results file."""

    claim: Claim | None = None
    throughput: Throughput | None = None
    compression: Compression | None = None
    growth: Growth | None = None
    latency: Latency | None = None
    million: Million | None = None
    peers: Peers | None = None
    profile: Profile | None = None
    receive: Receive | None = None


def load(path: Path = RESULTS) -> Results:
    """Reads the file; returns empty results if there is none."""
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.exists() else Results()


def save(results: Results, path: Path = RESULTS) -> None:
    """Writes the file with one value on each line, for readable differences."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def this_run(rounds: int, quick: bool) -> Run:
    """Returns a run of today on this machine."""
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = Machine(
        cores=os.cpu_count() or 0,
        memory_gb=round(pages / 2**30),
        python=platform.python_version(),
        kafka=KAFKA,
        redis=str(find_servers()[0]),
    )
    return Run(time.strftime("%Y-%m-%d", time.gmtime()), rounds, quick, machine)
