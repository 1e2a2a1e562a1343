"""`stormfold incidents`: recent incidents, read from their topic."""

import asyncio
from collections.abc import Mapping
from typing import Any

import click

from stormfold.cli.output import Output, limit_option, output_option
from stormfold.cli.published import Published, watch_option
from stormfold.errors import StormfoldError
from stormfold.incident_manifest import from_manifest
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.status.open_incidents import OpenIncident, open_incidents
from stormfold.times import format_timestamp

COLUMNS = {
    "last seen": 24, "namespace": 12, "name": 57, "severity": 8, "alerts": 7, "storms": 6, "resources": 9,
    "close reason": 12, "started with": 0,
}  # fmt: skip
"""Columns of the table, and their widths if `--watch` prints line by line."""


@click.command(
    epilog="""\b
Examples:
  stormfold incidents
  stormfold incidents -o yaml | kubectl apply -f -
  stormfold incidents --watch

An incident is published when it is final: mostly some minutes after its last alert."""
)
@limit_option(20)
@watch_option
@output_option
def command(limit: int, watch: bool, output: Output) -> None:
    """Show open and recent incidents, newest first. JSON and YAML have complete manifests, of those that are over."""
    settings = Settings()
    published = Published(settings.incidents_topic, COLUMNS, _row, "No incidents yet.", _open)
    show = published.watch if watch else published.list_newest
    asyncio.run(show(settings, limit, output))


async def _open(settings: Settings) -> list[dict[str, Any]]:
    """Rows of the incidents that are announced and not over."""
    redis = connect(settings)
    try:
        found = await open_incidents(Store(redis, settings.redis_prefix))
    except StormfoldError as error:
        click.echo(f"Open incidents are not shown: {error}", err=True)
        return []
    finally:
        await redis.aclose()
    return [_open_row(one) for one in found]


def _open_row(incident: OpenIncident) -> dict[str, Any]:
    values = (
        format_timestamp(incident.last_seen), incident.namespace, incident.name, incident.severity,
        incident.alert_count, incident.storm_count, incident.resource_count, "open", incident.first_pattern,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def _row(manifest: Mapping[str, Any]) -> dict[str, Any]:
    incident = from_manifest(manifest)
    values = (
        format_timestamp(incident.last_seen), incident.scope.namespace, incident.name, incident.severity,
        incident.alert_count, incident.storm_count, incident.resource_count, incident.close_reason,
        incident.first_pattern,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))
