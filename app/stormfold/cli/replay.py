"""`stormfold replay`: a past range folded again, to bring back storms or to try another configuration."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import Progress, TaskID

from stormfold.cli.output import Output, config_option, emit_document, emit_table, output_option
from stormfold.config import Config, load
from stormfold.config.schema import Duration, Time
from stormfold.replay.compare import Compared, Count, Tally, compare
from stormfold.replay.log import Span, Tell
from stormfold.replay.restore import Restored, restore
from stormfold.settings import Settings
from stormfold.storm import AggregateClass
from stormfold.text import escape_unprintable, pluralize
from stormfold.times import format_timestamp

_R = TypeVar("_R")
_DURATION: TypeAdapter[int] = TypeAdapter(Duration)
_TIME: TypeAdapter[int] = TypeAdapter(Time)
SHOWN = 5
"""Names of a kind that are shown with the table."""


class Moment(click.ParamType):
    """A time: ISO 8601, milliseconds since the epoch, or so long ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The time in milliseconds since the epoch."""
        if str(value).isdecimal():
            return int(value)
        with suppress(ValidationError):
            return time.time_ns() // 1_000_000 - _DURATION.validate_python(value)
        try:
            found = _TIME.validate_python(value)
        except ValidationError:
            self.fail(f"expected 2026-01-31T12:00:00Z, 1769860800000 or 2h, found {value!r}", param, ctx)
        return found


@click.command(
    epilog="""\b
Examples:
  stormfold replay --from 2026-01-31T12:00:00Z --to 2026-01-31T14:00:00Z
  stormfold replay --from 6h --dry-run --config tuned.yaml
  stormfold replay --from 24h --to 1h --dry-run -o json

A time is ISO 8601, milliseconds since the epoch, or a duration: so long ago. Without --dry-run it exits with 1 if the
range is not all as the log gives it."""
)
@click.option("--from", "begin", type=Moment(), required=True, help="Storms that begin from here on.")
@click.option("--to", "end", type=Moment(), help="Storms that begin before; else up to the last that is surely closed.")
@click.option("--dry-run", is_flag=True, help="Publish nothing: tell what --config would have made of the range.")
@config_option
@output_option
@click.pass_context
def command(
    ctx: click.Context, begin: int, end: int | None, dry_run: bool, config: Path | None, output: Output
) -> None:
    """Fold the alerts of a past range again, beside whatever is live.

    Publishes the storms of the range that are missing, under the names that they had; leaves alone what is there, and
    what is not closed yet. Needs the windows of the workers, for names depend on them, and leaves out what was counted
    before those were changed to what they are. With --dry-run any will do.
    """
    settings = Settings()
    wanted = Span(begin, time.time_ns() // 1_000_000 if end is None else end)
    if wanted.begin >= wanted.end:
        raise click.UsageError("--from is not before --to")
    loaded = load(config or settings.config)
    if dry_run:
        compared = _run(lambda tell: compare(settings, loaded, wanted, tell))
        _say_span(wanted, compared.span)
        _show_compared(compared, loaded, output)
        return
    restored = _run(lambda tell: restore(settings, loaded, wanted, tell))
    _say_span(wanted, restored.span, restored.since)
    _show_restored(restored, output)
    ctx.exit(0 if restored.well else 1)


def _run(work: Callable[[Tell], Awaitable[_R]]) -> _R:
    """Does it, with a progress bar for each topic on a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(topic: str, more: int, most: int) -> None:
            if topic not in tasks:
                tasks[topic] = progress.add_task(topic, total=most)
            progress.advance(tasks[topic], more)

        async def run() -> _R:
            return await work(tell)

        return asyncio.run(run())


def _say_span(wanted: Span, span: Span, since: int | None = None) -> None:
    if since is not None and since > wanted.begin:
        click.echo(f"What is before {format_timestamp(since)} was counted under other windows: left out.", err=True)
    if span.begin > max(wanted.begin, since or 0):
        click.echo(f"The log begins later: storms are certain from {format_timestamp(span.begin)} on.", err=True)
    if span.end < wanted.end:
        click.echo(f"Storms that begin from {format_timestamp(span.end)} on may still be open: left out.", err=True)


def _span(span: Span) -> dict[str, str]:
    return {"from": format_timestamp(span.begin), "to": format_timestamp(span.end)}


def _show_restored(found: Restored, output: Output) -> None:
    if output != "table":
        rest = {key: value for key, value in asdict(found).items() if key not in ("span", "since")}
        emit_document(_span(found.span) | rest, output)
        return
    row: dict[str, Any] = {
        **_span(found.span), "alerts": found.alerts, "same": found.same, "published": len(found.published),
        "differ": len(found.differs), "unexplained": len(found.unexplained), "doubtful": len(found.doubtful),
    }  # fmt: skip
    emit_table([row], row)
    differs = [f"{d.name} (published {d.published:,}, replayed {d.replayed:,} alerts)" for d in found.differs]
    for names, said in (
        (differs, "the log gives them otherwise; left as they are"),
        (found.unexplained, "the log does not give them; left as they are"),
        (found.doubtful, "missing, but their alerts may be counted in those above; not published"),
    ):
        if names:
            more = f" and {len(names) - SHOWN:,} more" if names[SHOWN:] else ""
            click.echo(escape_unprintable(f"{said}: {', '.join(names[:SHOWN])}{more}"), err=True)


def _show_compared(found: Compared, config: Config, output: Output) -> None:
    classes, routes = list(_classes(found)), list(_routes(found, config))
    biggest = [big._asdict() for big in sorted(found.now.biggest, reverse=True)]
    if output != "table":
        document = {"classes": classes, "routes": routes, "biggest": biggest, "not_over": found.left}
        emit_document(_span(found.span) | document, output)
        return
    emit_table(classes, classes[0])
    click.echo()
    for row in routes:
        row |= {key: f"{row[key]:.1%}" for key in ("reduction", "reduction_then") if row[key] is not None}
    emit_table(routes, routes[0] if routes else ["route"])
    click.echo()
    emit_table(biggest, ("alerts", "resources", "storm_class", "route", "pattern"))
    if found.left:
        click.echo(f"{pluralize(found.left, 'storm')} not over yet under this configuration: not counted.", err=True)


def _classes(found: Compared) -> Iterator[dict[str, Any]]:
    for name in get_args(AggregateClass):
        now, then = (_sum(tally, {name}) for tally in (found.now, found.then))
        yield {
            "class": name, "storms": now.storms, "storms_then": then.storms, "alerts": now.alerts,
            "alerts_then": then.alerts,
        }  # fmt: skip


def _routes(found: Compared, config: Config) -> Iterator[dict[str, Any]]:
    for route in sorted({route for tally in (found.now, found.then) for route, _ in tally.counts}):
        row: dict[str, Any] = {"route": route}
        for then, tally in (("", found.now), ("_then", found.then)):
            alerts = _sum(tally, get_args(AggregateClass), route).alerts
            resources = _sum(tally, config.publish, route).storms
            reduction = round(1 - resources / alerts, 4) if alerts else None
            row |= {f"alerts{then}": alerts, f"resources{then}": resources, f"reduction{then}": reduction}
        yield row


def _sum(tally: Tally, classes: Collection[str], route: str | None = None) -> Count:
    counts = [c for (r, kind), c in tally.counts.items() if kind in classes and route in (None, r)]
    return Count(sum(count.storms for count in counts), sum(count.alerts for count in counts))
