"""`stormfold replay`: fold a past range again, to restore storms or to try another configuration."""

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from rich.console import Console
from rich.progress import Progress, TaskID

from stormfold.cli.output import Output, config_option, emit_document, emit_table, output_option, print_names
from stormfold.config import Config, load
from stormfold.group import pattern
from stormfold.incident import Incident
from stormfold.replay.compare import Compared, compare
from stormfold.replay.range import OnProgress, Span
from stormfold.replay.restore import Restored, restore
from stormfold.settings import Settings
from stormfold.storm import Aggregate, AggregateClass
from stormfold.text import pluralize
from stormfold.times import format_duration, format_timestamp, parse_duration, parse_timestamp

_R = TypeVar("_R")
LARGEST = 10
"""Storms, and incidents, that a dry run lists."""


class TimeParam(click.ParamType):
    """A time: ISO 8601, milliseconds since the Unix epoch, or a duration before now."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The time in milliseconds since the Unix epoch."""
        text = str(value)
        if text.isdecimal():
            return int(text)
        if (ago := parse_duration(text)) is not None:
            return time.time_ns() // 1_000_000 - ago
        try:
            return parse_timestamp(text.upper())
        except (ValueError, OverflowError):
            self.fail(f"expected 2026-01-31T12:00:00Z, 1769860800000 or 2h, found {value!r}", param, ctx)


@click.command(
    epilog="""\b
Examples:
  stormfold replay --from 2026-01-31T12:00:00Z --to 2026-01-31T14:00:00Z
  stormfold replay --from 6h --dry-run --config tuned.yaml
  stormfold replay --from 24h --to 1h --dry-run -o json

A time is ISO 8601, milliseconds since the Unix epoch, or a duration before now. Without --dry-run it exits with 1 if
a storm of the range differs from the log."""
)
@click.option("--from", "begin", type=TimeParam(), required=True, help="Beginning of the range.")
@click.option("--to", "end", type=TimeParam(), help="End of the range; default: where storms may still be open.")
@click.option("--dry-run", is_flag=True, help="Publish nothing: show what --config makes of the range.")
@config_option
@output_option
@click.pass_context
def command(
    ctx: click.Context, begin: int, end: int | None, dry_run: bool, config: Path | None, output: Output
) -> None:
    """Fold the alerts of a past range again, without touching the live state.

    Publishes the storms of the range that are missing, under their original names. Existing and open storms stay as
    they are. Names depend on the windows, so these must be those of the workers, and storms that were counted under
    earlier windows are left out. With --dry-run the windows can be any.
    """
    settings = Settings()
    wanted = Span(begin, time.time_ns() // 1_000_000 if end is None else end)
    if wanted.begin >= wanted.end:
        raise click.UsageError("--from is not before --to")
    loaded = load(config or settings.config)
    if dry_run:
        compared = _run(lambda on_progress: compare(settings, loaded, wanted, on_progress))
        _report_span(wanted, compared.span)
        _print_compared(compared, loaded, output)
        return
    restored = _run(lambda on_progress: restore(settings, loaded, wanted, on_progress))
    _report_span(wanted, restored.span, restored.windows_since)
    _print_restored(restored, output)
    ctx.exit(0 if restored.complete else 1)


def _run(work: Callable[[OnProgress], Awaitable[_R]]) -> _R:
    """Runs the work, with a progress bar for each topic on a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def on_progress(topic: str, count: int, total: int) -> None:
            if topic not in tasks:
                tasks[topic] = progress.add_task(topic, total=total)
            progress.advance(tasks[topic], count)

        async def run() -> _R:
            return await work(on_progress)

        return asyncio.run(run())


def _report_span(wanted: Span, span: Span, since: int | None = None) -> None:
    """Prints which parts of the wanted range are left out, and why."""
    if since is not None and since > wanted.begin:
        click.echo(f"Left out: alerts before {format_timestamp(since)} were counted under other windows.", err=True)
    if span.begin > max(wanted.begin, since or 0):
        click.echo(f"Left out: the log is incomplete for storms before {format_timestamp(span.begin)}.", err=True)
    if span.end < wanted.end:
        click.echo(f"Left out: storms that begin after {format_timestamp(span.end)} may still be open.", err=True)


def _span(span: Span) -> dict[str, str]:
    return {"from": format_timestamp(span.begin), "to": format_timestamp(span.end)}


def _print_restored(found: Restored, output: Output) -> None:
    if output != "table":
        fields = {key: value for key, value in asdict(found).items() if key not in ("span", "windows_since")}
        emit_document(_span(found.span) | fields, output)
        return
    row: dict[str, Any] = {
        **_span(found.span), "alerts": found.alerts, "same": found.same, "published": len(found.published),
        "late": found.late, "differs": len(found.differs), "unexplained": len(found.unexplained),
        "ambiguous": len(found.ambiguous),
    }  # fmt: skip
    emit_table([row], row)
    differs = [f"{d.name} (published {d.published:,}, replayed {d.replayed:,} alerts)" for d in found.differs]
    if found.late:
        click.echo(
            f"In no incident, because that of their time is published: {pluralize(found.late, 'storm')}", err=True
        )
    print_names("Differ from the log, left as they are", differs)
    print_names("Not explained by the log, left as they are", found.unexplained)
    print_names("Missing and not published, as the alerts may be counted in those above", found.ambiguous)


def _print_compared(found: Compared, config: Config, output: Output) -> None:
    results = (("", found.replayed), ("_published", found.published))
    classes, routes = list(_classes(results)), list(_routes(results, config))
    largest = [
        {
            "alerts": a.alert_count, "resources": a.resource_count, "class": a.aggregate_class, "route": a.route,
            "pattern": a.pattern, "name": a.name,
        }
        for a in heapq.nlargest(LARGEST, found.replayed, key=lambda a: (a.alert_count, a.resource_count, a.name))
    ]  # fmt: skip
    incidents, longest = _incidents(found), _largest_incidents(found.incidents)
    if output != "table":
        document = {
            "classes": classes, "routes": routes, "largest": largest, "incidents": incidents,
            "largest_incidents": longest, "still_open": found.still_open,
        }  # fmt: skip
        emit_document(_span(found.span) | document, output)
        return
    emit_table(classes, classes[0])
    click.echo()
    for row in routes:
        row |= {key: f"{row[key]:.1%}" for key in row if key.startswith("reduction") and row[key] is not None}
    emit_table(routes, routes[0] if routes else ["route"])
    click.echo()
    emit_table(largest, ("alerts", "resources", "class", "route", "pattern"))
    click.echo()
    emit_table([incidents], incidents)
    if longest:
        click.echo()
        emit_table(longest, ("alerts", "storms", "others", "first", "length", "scope", "started_with"))
    if found.still_open:
        click.echo(f"Not counted: {pluralize(found.still_open, 'storm')} still open with this configuration.", err=True)


def _incidents(found: Compared) -> dict[str, Any]:
    results = (("", found.incidents), ("_published", found.incidents_published))
    row: dict[str, Any] = {f"incidents{suffix}": len(some) for suffix, some in results}
    row |= {f"alerts{suffix}": sum(one.alert_count for one in some) for suffix, some in results}
    return row


def _largest_incidents(incidents: Sequence[Incident]) -> list[dict[str, Any]]:
    return [
        {
            "alerts": one.alert_count, "storms": one.storm_count, "others": one.other_group_count,
            "first": format_timestamp(one.first_seen), "length": format_duration(one.last_seen - one.first_seen),
            "scope": pattern(one.scope.labels), "started_with": one.first_pattern, "name": one.name,
        }
        for one in heapq.nlargest(LARGEST, incidents, key=lambda one: (one.alert_count, one.name))
    ]  # fmt: skip


_Results = Sequence[tuple[str, Sequence[Aggregate]]]
"""Suffix of the columns, and aggregates: of the replay, and as published."""


def _classes(results: _Results) -> Iterator[dict[str, Any]]:
    counts = {suffix: Counter(a.aggregate_class for a in aggregates) for suffix, aggregates in results}
    alerts = {suffix: _sum_alerts(aggregates, "aggregate_class") for suffix, aggregates in results}
    for name in get_args(AggregateClass):
        row = {"class": name}
        row |= {f"storms{suffix}": count[name] for suffix, count in counts.items()}
        row |= {f"alerts{suffix}": count[name] for suffix, count in alerts.items()}
        yield row


def _routes(results: _Results, config: Config) -> Iterator[dict[str, Any]]:
    for route in sorted({a.route for _, aggregates in results for a in aggregates}):
        row: dict[str, Any] = {"route": route}
        for suffix, aggregates in results:
            alerts = _sum_alerts(aggregates, "route")[route]
            resources = sum(a.route == route and a.aggregate_class in config.publish for a in aggregates)
            reduction = round(1 - resources / alerts, 4) if alerts else None
            row |= {f"alerts{suffix}": alerts, f"resources{suffix}": resources, f"reduction{suffix}": reduction}
        yield row


def _sum_alerts(aggregates: Sequence[Aggregate], attribute: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for aggregate in aggregates:
        total[getattr(aggregate, attribute)] += aggregate.alert_count
    return total
