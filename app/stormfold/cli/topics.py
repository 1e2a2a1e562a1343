"""`stormfold topics`: are the five topics there and set up so that nothing gets lost."""

import asyncio
from collections.abc import Sequence
from typing import Any

import click

from stormfold.cli.output import Output, emit, output_option
from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import PARTITIONS, Finding, Present, Topic, create, describe, topics, validate
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.stages.reset_positions import forget


@click.command(
    epilog="""\b
Examples:
  stormfold topics
  stormfold topics --create --partitions 24
  stormfold topics --reset-positions

Exits with 1 if a topic is missing or set up in a way that can lose alerts."""
)
@click.option("--create", "make", is_flag=True, help="Create those that are missing; the others stay as they are.")
@click.option(
    "--partitions",
    type=click.IntRange(1, 10_000),
    default=PARTITIONS,
    show_default=True,
    help="Partitions of those that are created. A stage has at most as many workers.",
)
@click.option(
    "--reset-positions",
    "forgotten",
    is_flag=True,
    help="Read topics that were deleted and created anew from their beginning. Stop the workers first.",
)
@output_option
@click.pass_context
def command(ctx: click.Context, make: bool, partitions: int, forgotten: bool, output: Output) -> None:
    """Show the topics against what is needed; make those that are missing."""
    settings = Settings()
    if forgotten:
        places = asyncio.run(_forget(settings))
        click.echo(f"Read from the beginning: {', '.join(places) or 'none, every position fits its topic'}", err=True)
    wanted = topics(settings, partitions)
    present, created = asyncio.run(_look(settings, wanted, make))
    findings = validate(wanted, present)
    rows = [_row(topic, present.get(topic.name), findings, topic.name in created) for topic in wanted]
    columns = ["topic", "state", "partitions", "timestamps", "retention", "largest", "purpose"]
    emit(rows, {column: column for column in columns}, output)
    if findings:
        if output == "table":
            _advise(settings, findings)
        ctx.exit(1)


async def _forget(settings: Settings) -> list[str]:
    async with connect(settings) as redis:
        return await forget(settings, Store(redis, settings.redis_prefix))


async def _look(settings: Settings, wanted: Sequence[Topic], make: bool) -> tuple[dict[str, Present], list[str]]:
    async with open_admin(settings) as admin:
        created = await create(admin, wanted) if make else []
        return await describe(admin, wanted), created


def _row(topic: Topic, present: Present | None, findings: Sequence[Finding], created: bool) -> dict[str, Any]:
    mine = [finding for finding in findings if finding.topic == topic.name]
    row: dict[str, Any] = {
        "topic": topic.name,
        "state": mine[0].state if mine else "created" if created else "ok",
        "purpose": topic.purpose,
        "problems": [finding.message for finding in mine],
    }
    if present:
        row |= {
            "partitions": present.partitions,
            "timestamps": present.settings.get("message.timestamp.type"),
            "retention": _hours(present.settings.get("retention.ms", "")),
            "largest": int(present.settings.get("max.message.bytes", 0)),
            "settings": {setting.name: present.settings.get(setting.name) for setting in topic.settings},
        }
    return row


def _hours(ms: str) -> str:
    return "for ever" if ms == "-1" else f"{int(ms) / 3_600_000:g} h" if ms else ""


def _advise(settings: Settings, findings: Sequence[Finding]) -> None:
    click.echo(err=True)
    for finding in findings:
        if finding.setting:
            click.echo(f"{finding.topic}: {finding.message}", err=True)
            click.echo(
                f"  -> kafka-configs.sh --bootstrap-server {settings.kafka_bootstrap_servers} --alter"
                f" --topic {finding.topic} --add-config {finding.setting}",
                err=True,
            )
    if missing := [finding.topic for finding in findings if finding.state == "missing"]:
        click.echo(f"missing: {', '.join(missing)}\n  -> stormfold topics --create", err=True)
