"""The results as tables, for the terminal and for the page."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tests.benchmarks.results import (
    Claim,
    Compression,
    Growth,
    Latency,
    Million,
    Peers,
    Profile,
    Receive,
    Results,
    Run,
    Taken,
    Throughput,
    Work,
)

MIN_SHARE = 0.01
"""Smallest share of a profile that the table lists."""


class Sheet(NamedTuple):
    """One table; the first column is text, the others are figures."""

    title: str
    heading: tuple[str, ...]
    rows: list[tuple[str, ...]]


def sheets(part: str, results: Results) -> list[Sheet]:
    """Returns the tables of a measured part."""
    return list(SHEETS[part](getattr(results, part)))


def claim(found: Claim) -> Iterator[Sheet]:
    """Times and memory of the three forms."""
    yield Sheet(
        "Per alert, µs",
        ("form, affected resources", "serialise", "deserialise", "in Redis", "latency p50", "p99", "single-alert call"),
        [
            (
                f"{form.form}, {form.resources:,}",
                *(spread(runs) for runs in (
                    form.times.serialise, form.times.deserialise, form.times.redis, form.times.p50, form.times.p99,
                    form.times.alone,
                )),
            )
            for form in found.forms
        ],
    )  # fmt: skip
    yield Sheet(
        "Memory of an open storm",
        ("form, affected resources", "bytes written per alert", "bytes in Redis", f"fit into {found.maxmemory_mb} MB"),
        [
            (f"{form.form}, {form.resources:,}", f"{form.written:,}", f"{form.bytes_each:,.0f}", f"{form.fit:,}")
            for form in found.forms
        ],
    )  # fmt: skip
    yield Sheet(
        "Redis after churn",
        ("form", "windows", "peak (MB)", "used (MB)", "resident (MB)", "fragmentation"),
        [
            (c.form, str(c.windows), mb(c.peak), mb(c.used), mb(c.resident), f"{c.fragmentation:.2f}")
            for c in found.churn
        ],
    )


def throughput(found: Throughput) -> Iterator[Sheet]:
    """Rates and CPU time of backlogs."""
    yield Sheet("`alerts` to folded in Redis, one worker, all stages", _heading("load"), _rates(found.pipeline))
    yield Sheet("One stage alone", _heading("stage"), _rates(found.stages))


def _heading(first: str) -> tuple[str, ...]:
    return (first, "count", "a second", "per CPU-second of the worker", "worker µs", "broker µs", "Redis µs")


def _rates(backlogs: Mapping[str, Sequence[Taken]]) -> list[tuple[str, ...]]:
    return [
        (
            name, f"{taken[0].count:,}", spread([t.count / t.wall for t in taken]),
            spread([t.count / t.cpu.worker for t in taken]), *(
                number(statistics.median(cpu / t.count * 1e6 for cpu, t in zip(used, taken, strict=True)))
                for used in zip(*((t.cpu.worker, t.cpu.broker, t.cpu.redis) for t in taken), strict=True)
            ),
        )
        for name, taken in backlogs.items()
    ]  # fmt: skip


def compression(found: Compression) -> Iterator[Sheet]:
    """Bytes on disk and CPU time."""
    yield Sheet(
        "`alerts-by-fingerprint`, 20,000 series",
        ("compression", "bytes per alert on disk", *_heading("")[2:]),
        [(codec, spread(one.bytes_each), *_rates({codec: one.runs})[0][2:]) for codec, one in found.codecs.items()],
    )


def growth(found: Growth) -> Iterator[Sheet]:
    """Cost by size."""
    for name, points in found.curves.items():
        yield Sheet(
            f"µs per alert by {name}",
            (name, "worker CPU", "Redis CPU", "broker CPU", "wall"),
            [
                (
                    f"{p.size:,}",
                    spread(p.worker),
                    spread(p.redis),
                    spread(p.broker) if any(p.broker) else "",
                    spread(p.wall),
                )
                for p in points
            ],
        )


def latency(found: Latency) -> Iterator[Sheet]:
    """Delays by load, and catching up."""
    yield Sheet(
        "Delays, ms",
        ("load", "alerts a second requested", "sent", "folded p50", "p99", "resource present p50", "p99"),
        [
            (
                f"{d.load:.0%}", number(d.asked), spread(d.sent),
                *(spread(runs, 1000) for runs in (d.folded_p50, d.folded_p99, d.present_p50, d.present_p99)),
            )
            for d in found.delays
        ],
    )  # fmt: skip
    runs = found.catch_up
    third = [taken.resident[len(taken.resident) // 3] for taken in runs]
    last, peak = [taken.resident[-1] for taken in runs], [max(taken.resident) for taken in runs]
    yield Sheet(
        "Catching up",
        ("alerts", "seconds", "worker's memory after a third (MB)", "at the end", "peak"),
        [
            (
                f"{runs[0].count:,}", spread([taken.wall for taken in runs]),
                *(spread(sizes, 1e-6) for sizes in (third, last, peak)),
            )
        ],
    )  # fmt: skip


def million(found: Million) -> Iterator[Sheet]:
    """Memory and alerts in Redis."""
    yield Sheet(
        "In Redis",
        ("figure", "value"),
        [
            ("alerts sent, each of another label set", f"{found.alerts:,}"),
            ("groups", f"{found.groups:,}"),
            ("alerts open at the end", f"{found.open_alerts:,}"),
            ("fingerprints listed", f"{found.listed:,}"),
            ("calls refused", f"{found.refused:,}"),
            ("used (MB)", mb(found.used)),
            ("resident (MB) when the last alert was folded", mb(found.resident_at_once)),
            ("resident (MB) 15 seconds later", mb(found.resident)),
            ("fragmentation: resident over used", f"{found.fragmentation:.2f}"),
            ("fragmentation within the allocator", f"{found.allocator:.2f}"),
            ("bytes per alert", number((found.used - found.empty) / found.alerts)),
            ("seconds to fold them", number(found.wall)),
        ],
    )


def peers(found: Peers) -> Iterator[Sheet]:
    """Rates and CPU time, and the ratio to stormfold's CPU time with its Redis for groups of the same size."""
    ratios = peer_ratios(found)
    yield Sheet(
        "One process each, next to the same broker and Redis",
        (
            "program", "version", "members a group", "same work", "a second", "per CPU-second", "worker µs",
            "broker µs", "Redis µs", "CPU per alert over stormfold's", "after kill -9",
        ),
        [
            (
                peer.name, peer.version, f"{peer.members:,}", same_work(peer.work),
                spread([t.count / t.wall for t in peer.runs]), spread([t.count / t.cpu.worker for t in peer.runs]),
                number(statistics.median(t.cpu.worker / t.count * 1e6 for t in peer.runs)),
                number(statistics.median(t.cpu.broker / t.count * 1e6 for t in peer.runs)),
                number(statistics.median(t.cpu.redis / t.count * 1e6 for t in peer.runs)),
                f"{number(ratios[peer.name, peer.members])} times", peer.killed,
            )
            if peer.runs
            else (
                peer.name, peer.version, f"{peer.members:,}", same_work(peer.work), f"not run: {peer.missing}",
                *[""] * 6,
            )
            for peer in found.peers
        ],
    )  # fmt: skip


def same_work(work: Work) -> str:
    """Returns whether a program does stormfold's work, and the differences."""
    less = [
        *([] if work.keeps_members else ["counts, no members"]),
        *([] if work.windows == "session" else [f"{work.windows} windows"]),
    ]
    once = "exactly once" if work.exactly_once else "at least once"
    return f"no: {', '.join([*less, once])}" if less else f"yes, {once}"


def peer_ratios(found: Peers) -> dict[tuple[str, int], float]:
    """Returns the CPU per alert over stormfold's, by name and members of a group; programs that were not run lack."""
    costs = {(peer.name, peer.members): statistics.median(map(cost, peer.runs)) for peer in found.peers if peer.runs}
    ours = {members: used for (name, members), used in costs.items() if name == found.peers[0].name}
    return {(name, members): used / ours[members] for (name, members), used in costs.items()}


def profile(found: Profile) -> Iterator[Sheet]:
    """Files that take `MIN_SHARE` of the time or more."""
    shown = {file: share for file, share in found.shares.items() if share >= MIN_SHARE}
    rest = sum(found.shares.values()) - sum(shown.values())
    yield Sheet(
        f"{found.samples:,} samples",
        ("file", "share of the time"),
        [*((f"`{file}`", f"{share:.1%}") for file, share in shown.items()), ("others", f"{rest:.1%}")],
    )


def cost(taken: Taken) -> float:
    """Returns the CPU seconds of one alert in worker and Redis."""
    return (taken.cpu.worker + taken.cpu.redis) / taken.count


def receive(found: Receive) -> Iterator[Sheet]:
    """Rates and CPU time of request bodies."""
    rows: list[tuple[str, ...]] = [
        (
            name, spread([t.count / t.wall for t in taken]), spread([t.count / t.cpu.worker for t in taken]),
            number(statistics.median(t.cpu.worker / t.count * 1e6 for t in taken)),
            number(statistics.median(t.cpu.broker / t.count * 1e6 for t in taken)),
            mb(max(max(t.resident) for t in taken)),
        )
        for name, taken in found.loads.items()
    ]  # fmt: skip
    heading = ("body", "a second", "per CPU-second", "receiver µs", "broker µs", "memory (MB)")
    yield Sheet("One receiver, 32 connections", heading, rows)


SHEETS: dict[str, Callable[[Any], Iterator[Sheet]]] = {
    "claim": claim,
    "throughput": throughput,
    "compression": compression,
    "growth": growth,
    "latency": latency,
    "million": million,
    "peers": peers,
    "profile": profile,
    "receive": receive,
}


def describe(run: Run) -> str:
    """Returns the date, rounds and machine of a run as one sentence."""
    machine = run.machine
    brief = " **A quick run: its sizes are too small for its figures to mean anything.**" if run.quick else ""
    return (
        f"{run.date}, {_times(run.rounds)}; {machine.cores} cores for workers, broker and Redis together, "
        f"{machine.memory_gb} GB, Python {machine.python}, Kafka {machine.kafka}, Redis {machine.redis}.{brief}"
    )


def _times(rounds: int) -> str:
    return "one round" if rounds == 1 else f"medians of {rounds} rounds (lowest–highest)"


def spread(runs: Sequence[float], scale: float = 1) -> str:
    """Formats the median, and the range if there are several values."""
    values = [value * scale for value in runs]
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))}–{number(max(values))})"


def number(value: float) -> str:
    """Formats three significant digits, or all digits before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def mb(size: float) -> str:
    """Formats bytes as MB."""
    return number(size / 1e6)
