"""`stormfold check`: is a configuration right, and what does it make of an alert."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from app.alert import Incoming, Poison, Resource
from app.cli.output import Output, emit_document, emit_table, output_option, safe
from app.config import ALL_LABELS, Config, ConfigError, document, duration, load, timestamp
from app.errors import DeadLetter
from app.formats import parse
from app.keyed import GroupMeta
from app.routing import Route, Silence
from app.series import SeriesReader
from app.storm import pattern


@click.command(
    epilog="""\b
Examples:
  stormfold check stormfold.yaml
  stormfold check stormfold.yaml --alert alert.json
  kubectl get event my-event -o json | stormfold check stormfold.yaml --alert - -o json

Exits with 1 if the configuration or the alert can't be used."""
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--alert",
    type=click.File("rb"),
    metavar="FILE",
    help="Alerts in any understood format, whole or one on each line; - for standard input.",
)
@output_option
@click.pass_context
def command(ctx: click.Context, file: Path, alert: BinaryIO | None, output: Output) -> None:
    """Validate the configuration FILE and show what is in it; with an alert, say which route, group and resource it
    gets, how severe it is, its fingerprint, and whether it is silenced now."""
    try:
        config = load(file)
    except ConfigError as error:
        if output == "table":
            for problem in error.problems:
                click.echo(safe(problem), err=True)
        else:
            emit_document({"valid": False, "problems": error.problems}, output)
        ctx.exit(1)
    now = time.time_ns() // 1_000_000
    rows = [_seen(incoming, SeriesReader(config), now) for incoming in _read(alert, now)] if alert else None
    if output != "table":
        seen = {} if rows is None else {"alerts": rows}
        emit_document({"valid": True, "config": document(config), **seen}, output)
    elif rows is None:
        _show(config, now)
    else:
        texts = [row | {"group": pattern(row["groupLabels"])} for row in rows]
        emit_table(
            texts,
            {
                "route": "route",
                "group": "group",
                "resource": "resource",
                "severity": "severity",
                "fingerprint": "fingerprint",
                "silencedBy": "silenced by",
            },
        )


def _show(config: Config, now: int) -> None:
    windows = config.windows
    click.echo(f"gap {duration(windows.gap)}, grace {duration(windows.grace)}, slice {duration(windows.slice)}\n")
    emit_table([_route(route) for route in config.routes], {key: key for key in _route(config.routes[0])})
    if config.silences:
        click.echo()
        rows = [_silence(silence, now) for silence in config.silences]
        emit_table(rows, {key: key for key in rows[0]})


def _route(route: Route) -> dict[str, Any]:
    return {
        "route": route.name,
        "match": [str(matcher) for matcher in route.match] or "every alert",
        "group by": ALL_LABELS if route.group_by is None else route.group_by,
        "storm when": f"{route.storm_alerts} alerts or {route.storm_resources} resources",
        "namespace": route.namespace,
    }


def _silence(silence: Silence, now: int) -> dict[str, Any]:
    return {
        "silence": silence.name,
        "match": [str(matcher) for matcher in silence.match],
        "starts": None if silence.starts is None else timestamp(silence.starts),
        "ends": None if silence.ends is None else timestamp(silence.ends),
        "active": silence.active(now),
    }


def _read(file: BinaryIO, now: int) -> Iterator[Incoming]:
    """Alerts of a file that is one record, or a record on each line."""
    value = file.read()
    try:
        yield from parse(value, (), now)
        return
    except Poison as error:
        lines = [(number, line) for number, line in enumerate(value.splitlines(), 1) if line.strip()]
        if len(lines) < 2:
            raise DeadLetter(f"{file.name}: {error}") from None
    for number, line in lines:
        try:
            yield from parse(line, (), now)
        except Poison as error:
            raise DeadLetter(f"{file.name}:{number}: {error}") from None


def _seen(incoming: Incoming, reader: SeriesReader, now: int) -> dict[str, Any]:
    """An alert as intake sees it."""
    series = reader.series(incoming)
    meta = msgspec.msgpack.decode(series.body.meta, type=GroupMeta)
    resource = msgspec.msgpack.decode(series.body.resource, type=Resource) if series.body.resource else None
    return {
        "status": "resolved" if incoming.resolved else "firing",
        "route": meta.route,
        "namespace": meta.namespace,
        "groupLabels": meta.labels,
        "resource": str(resource) if resource else None,
        "severity": series.body.severity,
        "fingerprint": series.fingerprint,
        "silencedBy": next((silence.name for silence in series.silences if silence.active(now)), None),
    }
