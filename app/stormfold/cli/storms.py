"""`stormfold storms`: recent storms, read from their topic."""

import asyncio
from collections.abc import Mapping
from typing import Any, get_args

import click

from stormfold.cli.output import Output, limit_option, output_option
from stormfold.cli.published import Published, watch_option
from stormfold.manifest import from_manifest
from stormfold.settings import Settings
from stormfold.storm import AggregateClass
from stormfold.times import format_timestamp

COLUMNS = {
    "last seen": 24, "namespace": 12, "name": 57, "class": 8, "severity": 8, "alerts": 7, "resources": 9,
    "close reason": 12, "pattern": 0,
}  # fmt: skip
"""Columns of the table, and their widths if `--watch` prints line by line."""


@click.command(
    epilog="""\b
Examples:
  stormfold storms
  stormfold storms --class all --limit 100
  stormfold storms -o yaml | kubectl apply -f -
  stormfold storms --watch"""
)
@click.option(
    "--class",
    "wanted",
    type=click.Choice([*get_args(AggregateClass), "all"]),
    default="Storm",
    show_default=True,
    help="Class of the aggregates to show.",
)
@limit_option(20)
@watch_option
@output_option
def command(wanted: str, limit: int, watch: bool, output: Output) -> None:
    """Show recent storms, newest first. JSON and YAML have complete manifests.

    A narrow terminal shows fewer columns.
    """

    def row(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
        storm = from_manifest(manifest)
        if wanted not in ("all", storm.aggregate_class):
            return None
        values = (
            format_timestamp(storm.last_seen), storm.namespace, storm.name, storm.aggregate_class, storm.severity,
            storm.alert_count, storm.resource_count, storm.close_reason, storm.pattern,
        )  # fmt: skip
        return dict(zip(COLUMNS, values, strict=True))

    settings = Settings()
    others = "" if wanted == "all" else " `--class all` also shows isolated and silenced aggregates."
    published = Published(settings.storms_topic, COLUMNS, row, f"No storms yet.{others}")
    show = published.watch if watch else published.list_newest
    asyncio.run(show(settings, limit, output))
