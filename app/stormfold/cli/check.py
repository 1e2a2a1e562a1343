"""`stormfold check`: validates a configuration and explains what becomes of alerts under it."""

import time
from pathlib import Path
from typing import Any, BinaryIO, cast

import click
import msgspec

from stormfold.alert import Alert
from stormfold.cli.alert_file import read
from stormfold.cli.output import Output, emit_document, emit_table, output_option
from stormfold.config import ALL_LABELS, Config, ConfigError, document, load
from stormfold.decoding import Poison, decode_labels
from stormfold.errors import DeadLetter
from stormfold.group import GroupMeta, pattern
from stormfold.resource import Resource
from stormfold.routing import Route, Silence
from stormfold.series import Keyed, SeriesReader
from stormfold.text import escape_unprintable
from stormfold.times import format_duration, format_timestamp

COLUMNS = ("route", "group", "resource", "severity", "fingerprint", "silencedBy", "qualifies")
"""Columns of the table of alerts."""


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
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Alerts in any supported format, whole or one on each line; - for standard input.",
)
@output_option
@click.pass_context
def command(ctx: click.Context, file: Path, alert: str | None, output: Output) -> None:
    """Validate the configuration FILE and show its contents. With alerts, show the route, group, resource, severity and
    fingerprint of each, whether it is silenced now, and whether it counts towards a storm or why not."""
    try:
        config = load(file)
    except ConfigError as error:
        if output == "table":
            for problem in error.problems:
                click.echo(escape_unprintable(problem), err=True)
        else:
            emit_document({"valid": False, "problems": error.problems}, output)
        ctx.exit(1)
    now = time.time_ns() // 1_000_000
    rows = _explain(alert, config, now) if alert else None
    if output != "table":
        seen = {} if rows is None else {"alerts": rows}
        emit_document({"valid": True, "config": document(config), **seen}, output)
    elif rows is None:
        _show(config, now)
    elif not rows:
        click.echo("No alerts: these records report none, and intake skips them.")
    else:
        mapped = ["mapping"] if any(row["mapping"] for row in rows) else []
        emit_table([_text(row) for row in rows], [*mapped, *COLUMNS])


def _text(row: dict[str, Any]) -> dict[str, Any]:
    severity = row["severity"] if row["severityKnown"] else f"{row['severity']} (unknown: {row['severityLabel']})"
    qualifies = "yes" if row["qualifies"] else f"no: {row['whyNot']}"
    return row | {"group": pattern(row["groupLabels"]), "severity": severity, "qualifies": qualifies}


def _show(config: Config, now: int) -> None:
    click.echo(", ".join(f"{name} {value}" for name, value in document(config)["windows"].items()) + "\n")
    emit_table([_route(route) for route in config.routes], ["route", "match", "group by", "storm when", "namespace"])
    if config.silences:
        click.echo()
        rows = [_silence(silence, now) for silence in config.silences]
        emit_table(rows, ["silence", "match", "starts", "ends", "active"])


def _route(route: Route) -> dict[str, Any]:
    counts = f"{route.storm_alerts} alerts or {route.storm_resources} resources"
    new = [] if route.new_for is None else [f"new for {format_duration(route.new_for)}"]
    return {
        "route": route.name,
        "match": [str(matcher) for matcher in route.match] or "every alert",
        "group by": ALL_LABELS if route.group_by is None else route.group_by,
        "storm when": ", ".join([counts, f"{route.storm_severity} or above", *new]),
        "namespace": route.namespace,
    }


def _silence(silence: Silence, now: int) -> dict[str, Any]:
    return {
        "silence": silence.name,
        "match": [str(matcher) for matcher in silence.match],
        "starts": None if silence.starts is None else format_timestamp(silence.starts),
        "ends": None if silence.ends is None else format_timestamp(silence.ends),
        "active": silence.active(now),
    }


def _explain(path: str, config: Config, now: int) -> list[dict[str, Any]]:
    """The alerts of a file as intake sees them; raises `DeadLetter` with the line of a record that it would refuse."""
    name = "standard input" if path == "-" else path
    reader = SeriesReader(config)
    rows: list[dict[str, Any]] = []
    with click.open_file(path, "rb") as file:
        for record in read(cast(BinaryIO, file), name):
            try:
                rows += [_row(keyed, alert, config, now) for keyed, alert in reader.parse(record.value, (), now)]
            except Poison as error:
                raise DeadLetter(f"{name}:{record.line}: cannot be parsed: {error}") from None
    return rows


def _row(keyed: Keyed, alert: Alert, config: Config, now: int) -> dict[str, Any]:
    series = keyed.series
    meta = msgspec.msgpack.decode(series.group.meta, type=GroupMeta)
    resource = msgspec.msgpack.decode(series.resource, type=Resource) if series.resource else None
    reason = _why_not(keyed, alert, now)
    return {
        "mapping": alert.mapping,
        "status": "resolved" if alert.resolved else "firing",
        "route": meta.route,
        "namespace": meta.namespace,
        "groupLabels": meta.labels,
        "resource": str(resource) if resource else None,
        "severity": series.severity.name,
        "severityLabel": {**config.default_labels, **decode_labels(alert.labels)}.get(config.severity_label),
        "severityKnown": series.severity.known,
        "fingerprint": series.fingerprint,
        "silencedBy": next((silence.name for silence in series.silences if silence.active(now)), None),
        "qualifies": reason is None,
        "whyNot": reason,
    }


def _why_not(keyed: Keyed, alert: Alert, now: int) -> str | None:
    """The reason for which an alert does not count towards a storm; None if it does."""
    route = keyed.series.route
    if alert.resolved:
        return "resolved"
    if not keyed.severe:
        return f"{keyed.series.severity.name} is below {route.storm_severity}"
    if not keyed.qualifies(alert.starts_at, now):
        assert alert.starts_at is not None
        return f"began {format_timestamp(alert.starts_at)}, more than {format_duration(keyed.new_for)} ago"
    return None
