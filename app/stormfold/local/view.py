"""What the demo shows: a live picture on a terminal, plain lines elsewhere, and a summary at the end of both."""

import sys
from collections import Counter, deque
from collections.abc import Sequence
from typing import Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from stormfold.local.demo import Outcome, Pulse
from stormfold.local.incident import CHAPTERS
from stormfold.storm import Aggregate
from stormfold.text import escape_unprintable, pluralize

WIDTH = 100
"""Columns where there is no terminal."""
LINE_EVERY = 1.0
"""Seconds between two plain lines."""
RATE_OVER = 4
"""Pictures that a rate is taken over: about a second."""
SHOWN = 12
"""Storms in the summary."""
_BARS = " ▁▂▃▄▅▆▇█"
_BAR = 8
_SPARKS = 16
_NARROW = 96
"""Columns below which something is left out."""
_ABOVE = 12
"""Lines of the picture that are no storms."""
_STYLES = {"critical": "bold red", "error": "red", "warning": "yellow", "info": "blue"}


def terminal() -> Console | None:
    """The terminal on standard output, if it can show a live picture."""
    console = Console()
    fit = sys.stdout.isatty() and not console.is_dumb_terminal and console.encoding.startswith("utf")
    return console if fit else None


def plain() -> Console:
    """Writes lines without any control characters."""
    return Console(width=WIDTH, color_system=None, force_terminal=False)


class Lines:
    """A line every second, and one for each chapter and each storm."""

    def __init__(self) -> None:
        self._next = 0.0
        self._chapters = 0
        self._closed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, line: str) -> None:
        _print(f"{line} ...")

    def show(self, pulse: Pulse) -> None:
        moment = f"{pulse.at:5.1f} s  "
        for _, chapter in CHAPTERS[self._chapters : _chapter(pulse.at) + 1]:
            _print(f"{moment}{chapter}")
            self._chapters += 1
        for storm in pulse.closed[self._closed :]:
            if storm.aggregate_class == "Storm":
                size = f"{pluralize(storm.alert_count, 'alert')}, {pluralize(storm.resource_count, 'resource')}"
                _print(f"{moment}a storm has closed: {storm.pattern}, {size}")
        self._closed = len(pulse.closed)
        if pulse.at >= self._next:
            self._next += LINE_EVERY
            stages = ", ".join(f"{name} {flow.alerts:,}" for name, flow in pulse.stages.items())
            _print(
                f"{moment}{stages}; lag {sum(flow.lag or 0 for flow in pulse.stages.values()):,},"
                f" horizon {_delay(pulse)}, {pluralize(len(pulse.open), 'group')} open,"
                f" {pluralize(pulse.written, 'manifest')}, {pulse.dead} dead"
            )
            for problem in pulse.problems:
                _print(f"         {problem}")


def _print(line: str) -> None:
    # Not by rich, which would wrap it.
    print(escape_unprintable(line), flush=True)


class Picture:
    """Drawn anew several times a second, and gone at the end."""

    def __init__(self, console: Console, length: float) -> None:
        self._console = console
        self._narrow = console.width < _NARROW
        self._length = length
        self._spinner = Spinner("dots", style="cyan")
        self._text = ""
        self._chapter = -1
        self._pulses: deque[Pulse] = deque(maxlen=RATE_OVER + 1)
        self._rates: dict[str, deque[float]] = {}
        self._live = Live(console=console, transient=True, get_renderable=self._render, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        self._text = line

    def show(self, pulse: Pulse) -> None:
        before = self._pulses[0] if self._pulses else pulse
        for name, flow in pulse.stages.items():
            rate = (flow.alerts - before.stages[name].alerts) / max(pulse.at - before.at, 0.001)
            self._rates.setdefault(name, deque([0.0] * _SPARKS, maxlen=_SPARKS)).append(rate)
        self._pulses.append(pulse)
        if (chapter := _chapter(pulse.at)) > self._chapter:
            self._chapter = chapter
            self._text = CHAPTERS[chapter][1]

    def _render(self) -> RenderableType:
        if not self._pulses or self._pulses[-1].at < 0:
            self._spinner.update(text=Text(self._text))
            return Padding(self._spinner, (1, 1))
        pulse = self._pulses[-1]
        parts = (self._story(pulse), Text(), self._pipeline(pulse), Text(), self._storms(pulse))
        return Padding(Group(*parts), (1, 1, 0, 1))

    def _story(self, pulse: Pulse) -> RenderableType:
        grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        grid.add_column(width=20)
        grid.add_column(justify="right", width=6)
        bar = ProgressBar(total=self._length, completed=min(pulse.at, self._length), width=20)
        grid.add_row(Text(self._text, "bold"), bar, f"{pulse.at:.1f} s")
        return grid

    def _pipeline(self, pulse: Pulse) -> RenderableType:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("")
        table.add_column("ALERTS/S", justify="right")
        if not self._narrow:
            table.add_column("", width=_SPARKS)
        table.add_column("ALERTS", justify="right", width=7)
        table.add_column("LAG", justify="right", width=5)
        top = max(1.0, *(max(rates) for rates in self._rates.values()))
        for name, flow in pulse.stages.items():
            rates = self._rates[name]
            sparks = "".join(_BARS[round(rate / top * (len(_BARS) - 1))] for rate in rates)
            lag = Text("") if flow.lag is None else Text(f"{flow.lag:,}", "yellow" if flow.lag else "dim")
            history = [] if self._narrow else [Text(sparks, "cyan")]
            table.add_row(Text(name, "bold"), f"{rates[-1]:,.0f}", *history, f"{flow.alerts:,}", lag)
        grid = Table.grid(padding=(0, 3, 0, 0))
        grid.add_row(table, _gauges(pulse))
        return grid

    def _storms(self, pulse: Pulse) -> RenderableType:
        """The largest open groups, and the storms closed last; each has half of the room, and what the other leaves."""
        rows = max(4, self._console.height - _ABOVE)
        forming = sorted(pulse.open, key=lambda group: -group.alerts)
        closed = [storm for storm in reversed(pulse.closed) if storm.aggregate_class == "Storm"]
        forming = forming[: max(rows // 2, rows - len(closed))]
        closed = closed[: rows - len(forming)]
        top = max((group.alerts for group in pulse.open), default=1)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=True)
        table.add_column("", width=9)
        table.add_column("GROUP", ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column("", width=_BAR)
        for name in ("ALERTS", "RESOURCES", "SECONDS"):
            table.add_column(name, justify="right", width=len(name))
        for group in forming:
            style = "dim" if group.silenced else "cyan"
            table.add_row(
                Text("○ forming", style), Text(group.pattern, "dim" if group.silenced else ""),
                Text("━" * max(1, round(_BAR * group.alerts / top)), style),
                f"{group.alerts:,}", "", _seconds(group.first, group.last),
            )  # fmt: skip
        for storm in closed:
            table.add_row(
                Text("● closed", "green"), Text(storm.pattern), _severity(storm), f"{storm.alert_count:,}",
                f"{storm.resource_count:,}", _seconds(storm.first_seen, storm.last_seen),
            )  # fmt: skip
        return table


def _gauges(pulse: Pulse) -> RenderableType:
    classes = Counter(storm.aggregate_class for storm in pulse.closed)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_row("open", pluralize(len(pulse.open), "group"))
    others = classes.total() - classes["Storm"]
    grid.add_row("closed", f"{pluralize(classes['Storm'], 'storm')}, {pluralize(others, 'other')}")
    grid.add_row("manifests", f"{pulse.written}")
    grid.add_row("horizon", _delay(pulse))
    grid.add_row("dead letters", Text(f"{pulse.dead}", "red" if pulse.dead else ""))
    grid.add_row("Redis", f"{pulse.redis_bytes / 1e6:.1f} MB")
    return grid


def summary(outcome: Outcome, console: Console) -> RenderableType:
    """The storms, largest first, and what has become of the rest."""
    ordered = sorted(outcome.storms, key=lambda storm: -storm.alert_count)
    storms = [storm for storm in ordered if storm.aggregate_class == "Storm"]
    table = Table(
        box=box.SIMPLE_HEAD if console.is_terminal else None, show_edge=False, pad_edge=False, header_style="bold"
    )
    # The only one that may wrap is the only one that gives way; its cells don't.
    table.add_column("STORM")
    table.add_column("SEVERITY", no_wrap=True, min_width=8)
    names = ("ALERTS", "RESOURCES") if console.width < _NARROW else ("ALERTS", "DISTINCT", "RESOLVED", "RESOURCES")
    for column in names:
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    for storm in storms[:SHOWN]:
        counts = {
            "ALERTS": storm.alert_count,
            "DISTINCT": storm.distinct,
            "RESOLVED": storm.resolved,
            "RESOURCES": storm.resource_count,
        }
        name = Text(storm.pattern, no_wrap=True, overflow="ellipsis")
        table.add_row(name, _severity(storm), *(f"{counts[column]:,}" for column in names))
    rest = [
        _sum(storms[SHOWN:], "more storm"),
        _sum([storm for storm in ordered if storm.aggregate_class == "Isolated"], "isolated group"),
        _sum([storm for storm in ordered if storm.aggregate_class == "Silenced"], "silenced group"),
    ]
    return Group(table, Text(f"and {', '.join(filter(None, rest))}", "dim"))


def _sum(storms: Sequence[Aggregate], noun: str) -> str:
    """How many there are and what they hold; nothing if there are none."""
    if not storms:
        return ""
    return f"{pluralize(len(storms), noun)} ({pluralize(sum(storm.alert_count for storm in storms), 'alert')})"


def _chapter(at: float) -> int:
    """Index of the chapter that is told at that time; -1 before the first."""
    return sum(begin <= at for begin, _ in CHAPTERS) - 1


def _delay(pulse: Pulse) -> str:
    return "unknown" if pulse.horizon_delay is None else f"{pulse.horizon_delay:.1f} s behind"


def _severity(storm: Aggregate) -> Text:
    return Text(storm.severity, _STYLES.get(storm.severity, ""))


def _seconds(first: int, last: int) -> str:
    return f"{(last - first) / 1000:.1f}"
