"""The output of the demo: a live picture on a terminal, plain lines elsewhere, and a summary at the end of both."""

import sys
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import nullcontext

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from stormfold.group import pattern
from stormfold.incident import Incident
from stormfold.local.demo import Outcome, Snapshot
from stormfold.local.incident import SCRIPT
from stormfold.storm import Aggregate
from stormfold.text import escape_unprintable, pluralize

WIDTH = 100
"""Columns if there is no terminal."""
LINE_INTERVAL = 1.0
"""Seconds between two plain lines."""
RATE_SNAPSHOTS = 4
"""Snapshots over which a rate is computed: about a second."""
MAX_INCIDENTS = 3
"""Incidents in the summary."""
MAX_STORMS = 12
"""Storms in the summary."""
_BAR = 8
_NARROW = 96
"""Columns below which the summary leaves some columns out."""
_OTHER_LINES = 13
"""Lines of the picture above and below its groups and storms."""
_NUMBERS = (
    ("ALERTS", "alert_count"), ("DISTINCT", "distinct"), ("RESOLVED", "resolved"), ("RESOURCES", "resource_count"),
)  # fmt: skip
"""Columns of the summary, with the attribute of an aggregate that they show."""
_STYLES = {"critical": "bold red", "error": "red", "warning": "yellow", "info": "blue"}


def terminal() -> Console | None:
    """The terminal on standard output, if it can show a live picture."""
    console = Console()
    fit = sys.stdout.isatty() and not console.is_dumb_terminal and console.encoding.startswith("utf")
    return console if fit else None


def plain() -> Console:
    """A console that writes lines without control characters."""
    return Console(width=WIDTH, color_system=None, force_terminal=False)


class Lines:
    """Prints a line every second, and one for each chapter and each storm."""

    def __init__(self) -> None:
        self.live = nullcontext()
        self._next = 0.0
        self._chapters = 0
        self._closed = 0
        self._announced = False

    def step(self, text: str) -> None:
        _print(f"{text} ...")

    def show(self, snapshot: Snapshot) -> None:
        at = f"{snapshot.at:5.1f} s  "
        for _, chapter in SCRIPT.chapters[self._chapters : _chapter(snapshot.at) + 1]:
            _print(f"{at}{chapter}")
            self._chapters += 1
        for storm in _storms(snapshot.closed[self._closed :]):
            size = f"{pluralize(storm.alert_count, 'alert')}, {pluralize(storm.resource_count, 'resource')}"
            _print(f"{at}a storm has closed: {storm.pattern}, {size}")
        self._closed = len(snapshot.closed)
        if (announced := snapshot.announced) and not self._announced:
            self._announced = True
            counts = announced.firing.annotations["summary"]
            _print(f"{at}an incident is announced, {announced.after:.1f} s after its first alert: {counts}")
        if snapshot.at >= self._next:
            self._next += LINE_INTERVAL
            stages = ", ".join(f"{name} {stats.alerts:,}" for name, stats in snapshot.stages.items())
            _print(
                f"{at}{stages}; lag {sum(stats.lag or 0 for stats in snapshot.stages.values()):,},"
                f" horizon {_delay(snapshot)}, {pluralize(snapshot.groups.open, 'open group')},"
                f" {pluralize(snapshot.written, 'manifest')}, {pluralize(snapshot.dead_letters, 'dead letter')}"
            )
            for problem in snapshot.problems:
                _print(f"         {problem}")


def _print(line: str) -> None:
    # Not through rich, which would wrap it.
    print(escape_unprintable(line), flush=True)


class Picture:
    """A live picture, redrawn several times a second and removed at the end."""

    def __init__(self, console: Console, seconds: float) -> None:
        self._console = console
        self._seconds = seconds
        self._spinner = Spinner("dots", style="cyan")
        self._text = ""
        self._chapter = -1
        self._snapshots: deque[Snapshot] = deque(maxlen=RATE_SNAPSHOTS + 1)
        self.live = Live(console=console, transient=True, get_renderable=self._render, refresh_per_second=8)
        """Shows the picture while it is entered."""

    def step(self, text: str) -> None:
        self._text = text

    def show(self, snapshot: Snapshot) -> None:
        self._snapshots.append(snapshot)
        if (chapter := _chapter(snapshot.at)) > self._chapter:
            self._chapter = chapter
            self._text = SCRIPT.chapters[chapter][1]

    def _render(self) -> RenderableType:
        if not self._snapshots or self._snapshots[-1].at < 0:
            self._spinner.update(text=Text(self._text))
            return Padding(self._spinner, (1, 1))
        snapshot = self._snapshots[-1]
        middle = Table.grid(padding=(0, 3, 0, 0))
        middle.add_row(self._stages(snapshot), _gauges(snapshot))
        parts = (self._headline(snapshot), Text(), middle, Text(), self._groups(snapshot))
        return Padding(Group(*parts), (1, 1, 0, 1))

    def _headline(self, snapshot: Snapshot) -> RenderableType:
        grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        grid.add_column(width=20)
        grid.add_column(justify="right", width=6)
        bar = ProgressBar(total=self._seconds, completed=min(snapshot.at, self._seconds), width=20)
        grid.add_row(Text(self._text, "bold"), bar, f"{snapshot.at:.1f} s")
        return grid

    def _stages(self, snapshot: Snapshot) -> RenderableType:
        before = self._snapshots[0]
        seconds = max(snapshot.at - before.at, 0.001)
        table = _table("", "ALERTS/S", "ALERTS", "LAG")
        for name, stats in snapshot.stages.items():
            rate = (stats.alerts - before.stages[name].alerts) / seconds
            lag = Text("") if stats.lag is None else Text(f"{stats.lag:,}", "yellow" if stats.lag else "dim")
            table.add_row(Text(name, "bold"), f"{rate:,.0f}", f"{stats.alerts:,}", lag)
        return table

    def _groups(self, snapshot: Snapshot) -> RenderableType:
        """The largest open groups and the latest storms. Each gets half of the lines, and those the other leaves."""
        lines = max(4, self._console.height - _OTHER_LINES)
        groups = snapshot.groups.groups
        storms = _storms(snapshot.closed)[::-1]
        groups = groups[: max(lines // 2, lines - len(storms))]
        table = _table("", "GROUP", "", "ALERTS", "RESOURCES", "SECONDS", expand=True)
        table.columns[0].width, table.columns[2].width = 10, _BAR
        table.columns[1].ratio, table.columns[1].no_wrap, table.columns[1].overflow = 1, True, "ellipsis"
        if (announced := snapshot.announced) and not snapshot.incidents:
            firing = announced.firing
            table.add_row(
                Text("▲ incident", "bold red"), Text(f"announced {announced.after:.1f} s after its first alert"),
                Text(firing.severity, _STYLES.get(firing.severity, "")), f"{int(firing.annotations['alerts']):,}",
                firing.annotations["resources"], _seconds(firing.starts_at, firing.last),
            )  # fmt: skip
        for group in groups:
            style = "dim" if group.meta.silenced else "cyan"
            table.add_row(
                Text("○ forming", style), Text(pattern(group.meta.labels), "dim" if group.meta.silenced else ""),
                Text("━" * max(1, round(_BAR * group.alerts / groups[0].alerts)), style),
                f"{group.alerts:,}", f"{group.resources:,}", _seconds(group.first, group.last),
            )  # fmt: skip
        for storm in storms[: lines - len(groups)]:
            table.add_row(
                Text("● closed", "green"), Text(storm.pattern), _severity(storm), f"{storm.alert_count:,}",
                f"{storm.resource_count:,}", _seconds(storm.first_seen, storm.last_seen),
            )  # fmt: skip
        return table


def _table(*headings: str, expand: bool = False) -> Table:
    """A table without lines; named columns from the third on, and rates, hold numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=expand)
    for heading in headings:
        number = heading not in ("", "GROUP")
        table.add_column(heading, justify="right" if number else "left", min_width=len(heading))
    return table


def _gauges(snapshot: Snapshot) -> RenderableType:
    classes = Counter(aggregate.aggregate_class for aggregate in snapshot.closed)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_row("open", pluralize(snapshot.groups.open, "group"))
    others = classes.total() - classes["Storm"]
    grid.add_row("closed", f"{pluralize(classes['Storm'], 'storm')}, {pluralize(others, 'other')}")
    grid.add_row("incident", _incident(snapshot))
    grid.add_row("manifests", f"{snapshot.written}")
    grid.add_row("horizon", _delay(snapshot))
    grid.add_row("dead letters", Text(f"{snapshot.dead_letters}", "red" if snapshot.dead_letters else ""))
    grid.add_row("Redis", f"{snapshot.redis_bytes / 1e6:.1f} MB")
    return grid


def summary(outcome: Outcome, console: Console) -> RenderableType:
    """The storms, largest first, and the number of all other aggregates."""
    ordered = sorted(outcome.aggregates, key=lambda aggregate: -aggregate.alert_count)
    storms = _storms(ordered)
    table = Table(
        box=box.SIMPLE_HEAD if console.is_terminal else None, show_edge=False, pad_edge=False, header_style="bold"
    )
    # The only column that may wrap is the one that shrinks; its cells do not wrap.
    table.add_column("STORM")
    table.add_column("SEVERITY", no_wrap=True, min_width=8)
    columns = _NUMBERS[::3] if console.width < _NARROW else _NUMBERS
    for heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True, min_width=len(heading))
    for storm in storms[:MAX_STORMS]:
        numbers = (f"{getattr(storm, attribute):,}" for _, attribute in columns)
        table.add_row(Text(storm.pattern, no_wrap=True, overflow="ellipsis"), _severity(storm), *numbers)
    isolated, silenced = (
        [aggregate for aggregate in ordered if aggregate.aggregate_class == name] for name in ("Isolated", "Silenced")
    )
    others = (("more storm", storms[MAX_STORMS:]), ("isolated aggregate", isolated), ("silenced aggregate", silenced))
    rest = [
        f"{pluralize(len(found), noun)} ({pluralize(sum(aggregate.alert_count for aggregate in found), 'alert')})"
        for noun, found in others
        if found
    ]
    return Group(table, Text(f"and {', '.join(rest)}", "dim"), Text(), *map(_line, outcome.incidents[:MAX_INCIDENTS]))


def _line(incident: Incident) -> Text:
    """An incident: the last line of the summary."""
    counts = f"{pluralize(incident.alert_count, 'alert')}, {pluralize(incident.storm_count, 'storm')}, 1 incident"
    return Text.assemble((counts, "bold"), f"; it started with {incident.first_pattern}")


def _incident(snapshot: Snapshot) -> str:
    if snapshot.incidents:
        return "final"
    return f"announced after {snapshot.announced.after:.1f} s" if snapshot.announced else "none"


def _storms(aggregates: Sequence[Aggregate]) -> list[Aggregate]:
    return [aggregate for aggregate in aggregates if aggregate.aggregate_class == "Storm"]


def _chapter(at: float) -> int:
    """Index of the chapter at that time; -1 before the first."""
    return sum(begin <= at for begin, _ in SCRIPT.chapters) - 1


def _delay(snapshot: Snapshot) -> str:
    return "unknown" if snapshot.horizon_delay is None else f"{snapshot.horizon_delay:.1f} s behind"


def _severity(storm: Aggregate) -> Text:
    return Text(storm.severity, _STYLES.get(storm.severity, ""))


def _seconds(first: int, last: int) -> str:
    return f"{(last - first) / 1000:.1f}"
