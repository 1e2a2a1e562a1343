"""The results of a run, and their form in docs/reliability.md."""

import re
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.chaos.compare import Wrong
from tests.chaos.faults import FAULTS
from tests.chaos.truth import Verdict
from tests.chaos.watch import MORE_OPEN, SETTLED_MINUTES, TOLERANCE, Life
from tests.docs import ROOT, table

PAGE = ROOT / "docs" / "reliability.md"
HEADING = (
    "fault", "tried", "alerts under way", "lost", "double", "wrong incidents", "longest stop (s)",
    "time to recover (s)",
)  # fmt: skip
_BLOCK = re.compile(r"(<!-- from a run -->\n).*?(<!-- end -->)", re.DOTALL)


class Outcome(NamedTuple):
    """The effect of one fault, or of two at once."""

    faults: tuple[str, ...]
    begin: int
    """Wall-clock time (ms) of the beginning; `end` is that of the recovery."""
    end: int
    under_way: int
    """Alerts that were unread at the beginning, or arrived before the recovery."""
    stop: float
    """Longest time without progress (s)."""
    recovery: float
    """Seconds from the repair of the last fault until lag and health were as before."""
    struck: bool = True
    """False if a fault is known to have broken nothing."""


class Report(NamedTuple):
    """A whole run."""

    seed: int
    faults: tuple[str, ...]
    """The faults to try: with the seed they decide the schedule."""
    rate: int
    """Requested alerts a second."""
    minutes: float
    outcomes: Sequence[Outcome]
    verdict: Verdict
    lives: Sequence[Life]
    """The workers that lived for long."""


def write(report: Report, path: Path = PAGE) -> None:
    """Writes the result of a run into the page."""
    path.write_text(_BLOCK.sub(lambda block: block[1] + block_of(report) + block[2], path.read_text()))


def block_of(report: Report) -> str:
    """Returns the block of the page about a run."""
    alone = [outcome for outcome in report.outcomes if len(outcome.faults) == 1]
    pairs = [outcome for outcome in report.outcomes if len(outcome.faults) > 1]
    wrong = report.verdict.wrong
    rows = []
    for name, fault in FAULTS.items():
        tried = [outcome for outcome in alone if outcome.faults == (name,)]
        rows.append((f"`{name}`: {fault.description}", *_columns(tried, _met(tried, wrong))))
    rows.append(("two of them at once", *_columns(pairs, _met(pairs, wrong))))
    # Errors that belong to no turn appear in this row only.
    rows.append(("**all**", *_columns(report.outcomes, wrong)))
    return f"\n{_summary(report)}\n\n{table(HEADING, rows)}\n{_lives(report.lives)}\n{_plateau(report.lives)}\n"


def repeat(seed: int, faults: Sequence[str], rate: int, minutes: float) -> str:
    """Returns the command that repeats the run."""
    if minutes and tuple(faults) == tuple(FAULTS):
        return f"make soak MINUTES={minutes:g} SEED={seed} RATE={rate}"
    length = f" --minutes {minutes:g}" if minutes else ""
    return f"python -m tests.chaos.run{length} --seed {seed} --rate {rate} --faults {','.join(faults)}"


def _met(tried: Sequence[Outcome], wrong: Iterable[Wrong]) -> list[Wrong]:
    return [one for one in wrong if any(outcome.begin <= one.end and one.begin <= outcome.end for outcome in tried)]


def _columns(tried: Sequence[Outcome], wrong: Sequence[Wrong]) -> tuple[str, ...]:
    if not tried:
        return ("0", "", "", "", "", "", "")
    missed = sum(not outcome.struck for outcome in tried)
    return (
        f"{len(tried)}, {missed} of them struck nothing" if missed else str(len(tried)),
        f"{sum(outcome.under_way for outcome in tried):,}",
        f"{sum(one.lost for one in wrong):,}",
        f"{sum(one.double for one in wrong):,}",
        f"{sum(one.incidents for one in wrong):,}",
        f"{max(outcome.stop for outcome in tried):.1f}",
        _spread([outcome.recovery for outcome in tried]),
    )


def _spread(seconds: Sequence[float]) -> str:
    if len(seconds) == 1:
        return f"{seconds[0]:.1f}"
    return f"{statistics.median(seconds):.1f} (at most {max(seconds):.1f})"


def _summary(report: Report) -> str:
    verdict = report.verdict
    day = time.strftime("%Y-%m-%d", time.gmtime(report.outcomes[0].begin / 1000))
    sinks = " and ".join(f"{count:,} resources in {sink}" for sink, count in verdict.written.items())
    books, excused = verdict.books, verdict.excused
    balance = "Counted exactly once" if books.balanced and not books.open else "**The counts do not match**"
    return (
        f"{day}, `{repeat(report.seed, report.faults, report.rate, report.minutes)}` with {report.rate:,} alerts a"
        f" second requested: {verdict.alerts:,} alerts became {verdict.storms:,} storms, {verdict.incidents:,}"
        f" incidents and {sinks};"
        f" {verdict.late:,} alerts were late, {books.dead_letters:,} records were not alerts. {balance}:"
        f" {books.alerts:,} in, {books.aggregated + books.dead_letters:,} out. Excused: the time of {excused.alerts:,}"
        f" alerts, all but the number of {excused.early:,}, and what {excused.truncated:,} storms lack. Found wrong:"
        f" {len(verdict.wrong)}."
    )


def _plateau(lives: Iterable[Life]) -> str:
    settled = [life for life in lives if life.settled]
    if not settled:
        return f"No worker lived for {SETTLED_MINUTES:g} minutes: whether what it holds stays is not judged."
    return (
        f"From the middle third to the last, of workers that lived for {SETTLED_MINUTES:g} minutes and more, memory at"
        f" its highest rose by {max(0.0, max(life.growth for life in settled)) / 1e6:.0f} MB"
        f" (wrong from {TOLERANCE / 1e6:.0f} on), descriptors by {max(0.0, max(life.opened for life in settled)):g}"
        f" (wrong beyond {MORE_OPEN})."
    )


def _lives(lives: Iterable[Life]) -> str:
    rows = [
        (
            str(number), f"{life.minutes:.0f}", f"{life.resident[0] / 1e6:.0f} → {life.resident[-1] / 1e6:.0f}",
            f"{life.descriptors[0]:.0f} → {life.descriptors[-1]:.0f}",
        )
        for number, life in enumerate(lives, 1)
    ]  # fmt: skip
    return table(("worker", "minutes", "memory (MB), first third → last", "descriptors, first third → last"), rows)
