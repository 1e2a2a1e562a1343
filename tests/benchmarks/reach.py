"""The goals against the measurements, also where they are not met."""

from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

from stormfold.settings import Settings
from tests.benchmarks.results import (
    Claim,
    Compression,
    Form,
    Growth,
    Latency,
    Million,
    Peers,
    Receive,
    Results,
    Taken,
    Throughput,
)
from tests.benchmarks.tables import Sheet, number, peer_ratios

LARGE = 250e6
FIXED = "(a group's labels, its example alert, its index entries and its keys take the same for every size)"
SCRIPT = "([fold.lua](../app/stormfold/redis/fold.lua) reads and writes each different member of a poll)"
COUNTS = "(it keeps no members)"
SMALL = "(a window of 67 members is a value of 4 KB, which is read and written for each alert)"
FLUSHED = "(each file is flushed to the disk before it gets its name: most of it is time of the kernel)"
REQUESTS = "(each storm is a request over TLS)"
TIME = "([where the time goes](#where-the-time-goes))"
KEPT = "(the fold also keeps the newest time of each alert, and whether it is resolved)"
FLAT = 1.1
"""Highest ratio of the memory at the end of a backlog to that after a third of it."""


class Goal(NamedTuple):
    """A goal and its measurement."""

    what: str
    goal: str
    measured: str
    met: bool
    short: str = ""
    """The reason if it is not met."""


def reach(results: Results) -> Sheet:
    """Returns the goals of all measured parts."""
    rows: list[tuple[str, ...]] = [
        (goal.what, goal.goal, goal.measured, "yes" if goal.met else f"**no** {goal.short}".strip())
        for goal in goals(results)
    ]
    return Sheet("Goals", ("goal", "wanted", "measured", "met"), rows)


def goals(results: Results) -> Iterator[Goal]:
    """Yields the goals of all measured parts."""
    if results.claim:
        yield from _claim(results.claim)
    if results.million:
        yield _million(results.million)
    if results.throughput:
        yield from _throughput(results.throughput)
    if results.compression:
        yield _compression(results.compression)
    if results.peers:
        yield from _peers(results.peers)
    if results.latency:
        yield from _latency(results.latency)
    if results.growth:
        yield from _workers(results.growth)
    if results.receive:
        yield _receive(results.receive)


def _throughput(found: Throughput) -> Iterator[Goal]:
    wanted = {"20,000 series": 75_000, "hot storm, 2,000 series": 95_000, "every label set new": 45_000}
    for load, goal in wanted.items():
        if load in found.pipeline:
            rate = median(taken.count / taken.cpu.worker for taken in found.pipeline[load])
            yield _at_least(f"{load}: alerts per CPU-second of a worker", goal, rate)._replace(short=TIME)
    for load, most in {"20,000 series": 2.5, "hot storm, 2,000 series": 1.8}.items():
        if load in found.pipeline:
            used = median(taken.cpu.redis / taken.count * 1e6 for taken in found.pipeline[load])
            yield _at_most(f"{load}: Redis CPU per alert, µs", most, used)._replace(short=SCRIPT)
    for stage, most, short in (("emit, directory", 0.4, FLUSHED), ("emit, Kubernetes", 1.0, REQUESTS)):
        used = median(taken.cpu.worker / taken.count * 1e3 for taken in found.stages[stage])
        yield _at_most(f"{stage}: worker CPU per storm, ms", most, used)._replace(short=short)


def _compression(found: Compression) -> Goal:
    codec = Settings.model_fields["keyed_compression"].default
    return _at_most(f"keyed topic, {codec}: bytes per alert on disk", 150, median(found.codecs[codec].bytes_each))


def _receive(found: Receive) -> Goal:
    load = "webhook of 10 alerts"
    rate = median(taken.count / taken.cpu.worker for taken in found.loads[load])
    return _at_least(f"{load}: bodies per CPU-second of a receiver", 3_000, rate)


def _workers(found: Growth) -> Iterator[Goal]:
    wall = {point.size: median(point.wall) for point in found.curves["workers"]}
    if wall.keys() >= {1, 2}:
        cores = found.run.machine.cores
        goal = _at_least("speed-up of two workers over one", 1.8, wall[1] / wall[2])
        yield goal._replace(short=f"(all share {cores} cores with the servers)") if cores < 4 else goal


def _claim(found: Claim) -> Iterator[Goal]:
    by_form: dict[str, Form] = {form.form[0]: form for form in found.forms if form.resources == 15}
    fold = median(by_form["C"].times.p50)
    for name, wanted in (("A", 100), ("B", 30)):
        ratio = median(by_form[name].times.p50) / fold
        yield _at_least(
            f"ratio of the latency of {name} to that of an alert in a poll, 15 resources", wanted, ratio
        )._replace(short=KEPT)
    most, less = {15: 1.6, 100: 5.5, 1_000: 55, 10_000: 560}, saved(found)
    for form in found.forms:
        if form.form[0] != "C":
            continue
        size, limit = form.resources, most[form.resources]
        goal = _at_most(f"Redis memory of an open storm, {size:,} resources, KB", limit, form.bytes_each / 1e3)
        measured = f"{goal.measured}, {less[size]:.0%} less than the whole resource"
        yield goal._replace(measured=measured, short=FIXED if size <= 100 else "")
        if size == 1_000:
            yield _at_least(f"open storms of 1,000 resources in {found.maxmemory_mb} MB", 9_000, form.fit)


def saved(found: Claim) -> dict[int, float]:
    """Returns the share of a whole resource's memory that the fold does not need, by affected resources."""
    sizes = {(form.form[0], form.resources): form.bytes_each for form in found.forms}
    return {resources: 1 - size / sizes["A", resources] for (form, resources), size in sizes.items() if form == "C"}


def _million(found: Million) -> Goal:
    complete = found.open_alerts == found.listed == found.alerts
    return Goal(
        f"{found.alerts:,} distinct open alerts in 512 MB",
        "all listed, none refused, fragmentation < 1.5",
        f"{found.listed:,} listed, {found.refused} refused, {found.fragmentation:.2f}",
        complete and not found.refused and found.fragmentation < 1.5,
        f"(within the allocator {found.allocator:.2f}; the rest is the program, Lua and free pages:"
        f" {number(found.resident / 1e6)} MB are resident in all)",
    )


def _latency(found: Latency) -> Iterator[Goal]:
    for delay in found.delays:
        if delay.load == 0.5:
            goal = _at_most("final to resource present at half of capacity, p99, s", 1, median(delay.present_p99))
            yield goal._replace(short=f"(producer, broker, Redis and worker share {found.run.machine.cores} cores)")
    yield _memory(found.catch_up)


def _peers(found: Peers) -> Iterator[Goal]:
    wanted = {
        ("Kafka Streams, members, session", 67): 4,
        ("Kafka Streams, members, session", 1_000): 20,
        ("Kafka Streams, counting, session", 67): 3,
        ("Kafka Streams, counting, tumbling", 67): 1.0,
        ("Faust, counting, tumbling", 67): 50,
    }
    ratios = peer_ratios(found)
    for (name, members), goal in wanted.items():
        if (name, members) in ratios:
            what = f"CPU per alert of {name}, over stormfold's with its Redis, {members:,} members a group"
            yield _at_least(what, goal, ratios[name, members])._replace(
                short=COUNTS if "counting" in name else SMALL if members == 67 else ""
            )


def _memory(runs: list[Taken]) -> Goal:
    peak = median(max(taken.resident) for taken in runs)
    growth = median(taken.resident[-1] / taken.resident[len(taken.resident) // 3] for taken in runs)
    return Goal(
        f"a worker's memory over a backlog of {runs[0].count:,}",
        "< 250 MB, flat",
        f"peak {number(peak / 1e6)} MB, at the end {growth:.2f} times that after a third",
        peak < LARGE and growth < FLAT,
    )


def _at_least(what: str, goal: float, value: float) -> Goal:
    return Goal(what, f"≥ {goal:,}", number(value), value >= goal)


def _at_most(what: str, goal: float, value: float) -> Goal:
    return Goal(what, f"≤ {goal:,}", number(value), value <= goal)
