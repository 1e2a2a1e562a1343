"""The goals against the measurements, also where they are not met."""

from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

from tests.benchmarks.results import Claim, Form, Growth, Latency, Million, Peers, Receive, Results, Taken, Throughput
from tests.benchmarks.tables import Sheet, cost, number

LARGE = 250e6
BYTES = "(47 of each alert's 62 bytes name its resource by kind, namespace and name; a group has labels and an example)"
TIME = "([where the time goes](#where-the-time-goes))"
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
    if results.throughput:
        yield from _throughput(results.throughput)
    if results.growth:
        yield from _workers(results.growth)
    if results.claim:
        yield from _claim(results.claim)
    if results.million:
        yield _million(results.million)
    if results.latency:
        yield from _latency(results.latency)
    if results.receive:
        yield _receive(results.receive)
    if results.peers:
        yield from _peers(results.peers)


def _throughput(found: Throughput) -> Iterator[Goal]:
    wanted = {"20,000 series": 100_000, "hot storm, 2,000 series": 130_000, "every label set new": 50_000}
    for load, goal in wanted.items():
        if load in found.pipeline:
            rate = median(taken.count / taken.cpu.worker for taken in found.pipeline[load])
            yield _at_least(f"{load}: alerts per CPU-second of a worker", goal, rate)._replace(short=TIME)
    for load in list(wanted)[:2]:
        if load in found.pipeline:
            used = median(taken.cpu.redis / taken.count * 1e6 for taken in found.pipeline[load])
            yield _at_most(f"{load}: Redis CPU per alert, µs", 1.5, used)


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
    for name, goal in (("A", 100), ("B", 30)):
        ratio = median(by_form[name].times.p50) / fold
        yield _at_least(f"ratio of the latency of {name} to that of an alert in a poll, 15 resources", goal, ratio)
    for form in found.forms:
        wanted = {15: 0.8, 100: 4, 1000: 45}[form.resources]
        if form.form[0] == "C":
            yield _at_most(
                f"Redis memory of an open storm, {form.resources:,} resources, KB", wanted, form.bytes_each / 1e3
            )._replace(short=BYTES)


def _million(found: Million) -> Goal:
    complete = found.open_alerts == found.listed == found.alerts
    return Goal(
        f"{found.alerts:,} distinct open alerts in 512 MB",
        "all listed, none refused, fragmentation < 1.5",
        f"{found.listed:,} listed, {found.refused} refused, {found.fragmentation:.2f}",
        complete and not found.refused and found.fragmentation < 1.5,
        f"(within the allocator {found.allocator:.2f}; the rest is the program, Lua and free pages)",
    )


def _latency(found: Latency) -> Iterator[Goal]:
    for delay in found.delays:
        if delay.load == 0.5:
            yield _at_most("final to resource present at half of capacity, p99, s", 1, median(delay.present_p99))
    yield _memory(found.catch_up)


def _peers(found: Peers) -> Iterator[Goal]:
    ours, *others = found.peers
    for peer in others:
        goal = {"Faust": 50, "Kafka Streams, session": 3, "Kafka Streams, tumbling": 1.2}
        for name, wanted in goal.items():
            if peer.name.startswith(name) and peer.runs:
                ratio = median(map(cost, peer.runs)) / median(map(cost, ours.runs))
                yield _at_least(
                    f"ratio of the CPU per alert of {peer.name} to stormfold's with its Redis", wanted, ratio
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
