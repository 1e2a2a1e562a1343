"""What a run found, and how docs/reliability.md says it."""

import re
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.chaos.faults import FAULTS
from tests.chaos.truth import Verdict, Wrong
from tests.chaos.watch import Life
from tests.docs import ROOT, table

PAGE = ROOT / "docs" / "reliability.md"
HEADING = (
    "fault", "tried", "alerts under way", "lost", "double", "longest stop (s)", "time to recover (s)",
)  # fmt: skip
_BLOCK = re.compile(r"(<!-- from a run -->\n).*?(<!-- end -->)", re.DOTALL)


class Outcome(NamedTuple):
    """What one fault did, or two at once."""

    faults: tuple[str, ...]
    begin: int
    """Wall-clock time (ms) of the beginning, and of the recovery."""
    end: int
    under_way: int
    """Alerts that were unread when it began, or came until the recovery."""
    stop: float
    """Seconds of the longest span without progress."""
    recovery: float
    """Seconds from the end of the last fault until all was as before."""


class Report(NamedTuple):
    """A whole run."""

    seed: int
    rate: int
    """Alerts a second that were asked for."""
    minutes: float
    outcomes: Sequence[Outcome]
    verdict: Verdict
    lives: Sequence[Life]
    """Of the workers that were there for long."""


def write(report: Report, path: Path = PAGE) -> None:
    """Puts a run's result into the page."""
    path.write_text(_BLOCK.sub(lambda block: block[1] + block_of(report) + block[2], path.read_text()))


def block_of(report: Report) -> str:
    """What the page says of a run."""
    alone = [outcome for outcome in report.outcomes if len(outcome.faults) == 1]
    pairs = [outcome for outcome in report.outcomes if len(outcome.faults) > 1]
    wrong = report.verdict.wrong
    rows = []
    for name, fault in FAULTS.items():
        tried = [outcome for outcome in alone if outcome.faults == (name,)]
        rows.append((f"`{name}`: {fault.what}", *_columns(tried, wrong)))
    rows.append(("two of them at once", *_columns(pairs, wrong)))
    rows.append(("**all**", *_columns(report.outcomes, wrong)))
    return f"\n{_summary(report)}\n\n{table(HEADING, rows)}\n{_lives(report.lives)}\n"


def _columns(tried: Sequence[Outcome], wrong: Iterable[Wrong]) -> tuple[str, ...]:
    if not tried:
        return ("0", "", "", "", "", "")
    met = [one for one in wrong if any(outcome.begin <= one.end and one.begin <= outcome.end for outcome in tried)]
    return (
        str(len(tried)),
        f"{sum(outcome.under_way for outcome in tried):,}",
        f"{sum(one.lost for one in met):,}",
        f"{sum(one.double for one in met):,}",
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
    return (
        f"{day}, `make soak MINUTES={report.minutes:g} SEED={report.seed}` with {report.rate:,} alerts a second asked"
        f" for: {verdict.alerts:,} alerts became {verdict.storms:,} storms, {sinks}; {verdict.late:,} alerts were late,"
        f" {verdict.books.dead:,} records were not alerts. The books balance: "
        f"{verdict.books.alerts:,} in, {verdict.books.storms + verdict.books.dead:,} out."
        f" Found wrong: {len(verdict.wrong)}."
    )


def _lives(lives: Iterable[Life]) -> str:
    rows = [
        (
            str(number), f"{life.minutes:.0f}", f"{life.resident[0] / 1e6:.0f} → {life.resident[1] / 1e6:.0f}",
            f"{life.descriptors[0]:.0f} → {life.descriptors[1]:.0f}",
        )
        for number, life in enumerate(lives, 1)
    ]  # fmt: skip
    return table(("worker", "minutes", "memory (MB), first third → last", "descriptors, first third → last"), rows)
