"""`stormfold storms`: recent storms, straight from their topic."""

import asyncio
from typing import Any, get_args

import click
import msgspec
from aiokafka import ConsumerRecord

from app.cli.output import Output, emit, emit_document, output_option, safe
from app.kafka.tail import Tail, open_tail
from app.settings import Settings
from app.storm import StormClass, StormMetadata, timestamp, to_metadata

COLUMNS = ("last seen", "namespace", "name", "class", "severity", "alerts", "resources", "closed by", "pattern")


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
    type=click.Choice([*get_args(StormClass), "all"]),
    default="Storm",
    show_default=True,
    help="Which storms.",
)
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="At most so many.")
@click.option("--watch", is_flag=True, help="Go on with those that come, until Ctrl-C.")
@output_option
def command(wanted: str, limit: int, watch: bool, output: Output) -> None:
    """Show recent storms, newest last; as JSON or YAML the whole manifests."""
    asyncio.run(_show(Settings(), wanted, limit, watch, output))


async def _show(settings: Settings, wanted: str, limit: int, watch: bool, output: Output) -> None:
    async with open_tail(settings) as tail:
        # Isolated ones are many: a look far enough back to find as many storms as are asked for.
        manifests = await _recent(tail, settings.storms_topic, wanted, limit)
        if output == "table":
            emit([_row(to_metadata(manifest)) for manifest in manifests], COLUMNS, output)
            if not manifests:
                click.echo("No storms yet.", err=True)
        else:
            emit_document(_listed(manifests), output)
        if watch:
            shown = {manifest["metadata"]["name"].encode() for manifest in manifests}
            # From a little before: what came between the two looks is not missed.
            async for record in tail.read(settings.storms_topic, 100, follow=True):
                if record.key not in shown:
                    shown.add(record.key)
                    _tell(record, wanted, output)


async def _recent(tail: Tail, topic: str, wanted: str, limit: int) -> list[dict[str, Any]]:
    depth: int | None = max(200, limit)
    while True:
        records = [record async for record in tail.read(topic, depth)]
        newest = {record.key: record for record in sorted(records, key=lambda record: record.timestamp)}
        manifests = [found for record in newest.values() if (found := _manifest(record, wanted)) is not None]
        manifests.sort(key=lambda manifest: manifest["spec"]["lastSeen"])
        if len(manifests) >= limit or depth is None:
            return manifests[-limit:]
        depth = None


def _manifest(record: ConsumerRecord, wanted: str) -> dict[str, Any] | None:
    try:
        manifest: dict[str, Any] = msgspec.json.decode(record.value)
        fits = wanted in ("all", to_metadata(manifest).storm_class)
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return None
    return manifest if fits else None


def _listed(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": manifests}


def _tell(record: ConsumerRecord, wanted: str, output: Output) -> None:
    manifest = _manifest(record, wanted)
    if manifest is None:
        return
    if output == "table":
        row = _row(to_metadata(manifest))
        click.echo("  ".join(safe(str(row[column])) for column in COLUMNS))
    else:
        emit_document(manifest, output)


def _row(storm: StormMetadata) -> dict[str, Any]:
    values = (
        timestamp(storm.last_seen), storm.namespace, storm.name, storm.storm_class, storm.severity, storm.alert_count,
        storm.resource_count, storm.close_reason, storm.pattern,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))
