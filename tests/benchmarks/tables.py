"""What the results say, as tables: for the terminal and for the page."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tests.benchmarks.results import Claim, Results, Run, Runs, Taken, Throughput


class Sheet(NamedTuple):
    """One table; the first column is text, the others are figures."""

    title: str
    heading: tuple[str, ...]
    rows: list[tuple[str, ...]]


def sheets(part: str, results: Results) -> list[Sheet]:
    """The tables of one part, which has been measured."""
    return list(SHEETS[part](getattr(results, part)))


def claim(found: Claim) -> Iterator[Sheet]:
    """Times and memory of the three forms."""
    yield Sheet(
        "Per alert, µs",
        ("form, affected resources", "serialise", "deserialise", "in Redis", "latency p50", "p99", "alone in a call"),
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
        ("form, affected resources", "bytes written an alert", "bytes in Redis", f"fit into {found.maxmemory_mb} MB"),
        [
            (f"{form.form}, {form.resources:,}", f"{form.written:,}", f"{form.bytes_each:,.0f}", f"{form.fit:,}")
            for form in found.forms
        ],
    )  # fmt: skip
    yield Sheet(
        "Redis after churn",
        ("form", "windows", "most used (MB)", "used (MB)", "resident (MB)", "fragmentation"),
        [
            (c.form, str(c.windows), mb(c.peak), mb(c.used), mb(c.resident), f"{c.fragmentation:.2f}")
            for c in found.churn
        ],
    )


def throughput(found: Throughput) -> Iterator[Sheet]:
    """Rates and CPU of backlogs."""
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


SHEETS: dict[str, Callable[[Any], Iterator[Sheet]]] = {"claim": claim, "throughput": throughput}


def told(run: Run) -> str:
    """When and on what."""
    machine = run.machine
    brief = " **A quick run: its sizes are too small for its figures to mean anything.**" if run.quick else ""
    return (
        f"{run.date}, {_times(run.rounds)}; {machine.cores} cores for workers, broker and Redis together, "
        f"{machine.memory_gb} GB, Python {machine.python}, Kafka {machine.kafka}, Redis {machine.redis}.{brief}"
    )


def _times(rounds: int) -> str:
    return "one round" if rounds == 1 else f"medians of {rounds} rounds (lowest–highest)"


def spread(runs: Runs, scale: float = 1) -> str:
    """The median, and the range if there is one."""
    values = [value * scale for value in runs]
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))}–{number(max(values))})"


def number(value: float) -> str:
    """Three digits that count, or all before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def mb(size: float) -> str:
    """Bytes in MB."""
    return number(size / 1e6)


def median_of(runs: Sequence[float]) -> float:
    """The median."""
    return statistics.median(runs)
