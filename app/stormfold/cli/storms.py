"""`stormfold storms`: recent storms, read from their topic."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, get_args

import click
import msgspec
from aiokafka import ConsumerRecord

from stormfold.cli.output import Output, emit, emit_document, limit_option, output_option
from stormfold.decoding import Malformed, decode_untrusted
from stormfold.kafka.reader import TopicReader, open_reader
from stormfold.manifest import from_manifest
from stormfold.settings import Settings
from stormfold.storm import Aggregate, AggregateClass
from stormfold.text import escape_unprintable
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
@click.option("--watch", is_flag=True, help="Show the oldest first, then new ones as they are published, until Ctrl-C.")
@output_option
def command(wanted: str, limit: int, watch: bool, output: Output) -> None:
    """Show recent storms, newest first. JSON and YAML have complete manifests."""
    show = _watch if watch else _list
    asyncio.run(show(Settings(), wanted, limit, output))


async def _list(settings: Settings, wanted: str, limit: int, output: Output) -> None:
    async with open_reader(settings) as reader:
        manifests = await _recent(reader, settings.storms_topic, wanted, limit)
    if output != "table":
        emit_document({"apiVersion": "v1", "kind": "List", "items": manifests}, output)
        return
    emit([_row(from_manifest(manifest)) for manifest in manifests], COLUMNS, output)
    if not manifests:
        others = "" if wanted == "all" else " `--class all` also shows isolated and silenced aggregates."
        click.echo(f"No storms yet.{others}", err=True)


async def _watch(settings: Settings, wanted: str, limit: int, output: Output) -> None:
    topic = settings.storms_topic
    if output == "table":
        click.echo(_line({column: column.upper() for column in COLUMNS}))
    async with open_reader(settings) as reader:
        # The ends are read first, so that no storm is missed that is published after the list.
        ends = await reader.end_offsets(topic)
        manifests = await _recent(reader, topic, wanted, limit)
        shown = {manifest["metadata"]["name"] for manifest in manifests}
        for manifest in reversed(manifests):
            _print(manifest, output)
        async with aclosing(reader.read_batches(topic, ends, None)) as polls:
            async for records in polls:
                for record in records:
                    found = _manifest(record, wanted)
                    if found is not None and found["metadata"]["name"] not in shown:
                        shown.add(found["metadata"]["name"])
                        _print(found, output)


async def _recent(reader: TopicReader, topic: str, wanted: str, limit: int) -> list[dict[str, Any]]:
    def name(record: ConsumerRecord) -> str | None:
        manifest = _manifest(record, wanted)
        return None if manifest is None else str(manifest["metadata"]["name"])

    # After an outage many are published at once, in no particular order.
    manifests = [msgspec.json.decode(record.value) for record in await reader.newest(topic, limit, name)]
    return sorted(manifests, key=lambda manifest: str(manifest["spec"]["lastSeen"]), reverse=True)[:limit]


def _manifest(record: ConsumerRecord, wanted: str) -> dict[str, Any] | None:
    """The manifest in a record; None if it is not a manifest, or has another class."""
    try:
        manifest: dict[str, Any] = decode_untrusted(msgspec.json.decode, record.value)
        fits = wanted in ("all", from_manifest(manifest).aggregate_class)
    except Malformed:
        return None
    return manifest if fits else None


def _print(manifest: Mapping[str, Any], output: Output) -> None:
    """Prints one storm of `--watch`."""
    if output == "table":
        click.echo(_line(_row(from_manifest(manifest))))
        return
    if output == "yaml":
        click.echo("---")
    emit_document(manifest, output)


def _line(row: Mapping[str, Any]) -> str:
    return "  ".join(
        f"{escape_unprintable(str(row[column])):{width or ''}}" for column, width in COLUMNS.items()
    ).rstrip()


def _row(storm: Aggregate) -> dict[str, Any]:
    values = (
        format_timestamp(storm.last_seen), storm.namespace, storm.name, storm.aggregate_class, storm.severity,
        storm.alert_count, storm.resource_count, storm.close_reason, storm.pattern,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))
