"""`stormfold topics`: check that the topics exist and are configured so that no alert is lost."""

import asyncio
from collections.abc import Sequence
from typing import Any

import click

from stormfold.cli.output import Output, emit, output_option, print_problem
from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import PARTITIONS, Finding, Topic, TopicState, create, describe, topics, validate
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.stages.reset_positions import reset_positions

COLUMNS = ("topic", "state", "partitions", "timestamp_type", "retention", "max_message_bytes", "purpose")


@click.command(
    epilog="""\b
Examples:
  stormfold topics
  stormfold topics --create --partitions 24
  stormfold topics --reset-positions

Exits with 1 if a topic is missing, or has a configuration that can lose alerts or that this user may not read."""
)
@click.option("--create", "create_missing", is_flag=True, help="Create missing topics. Existing ones are not changed.")
@click.option(
    "--partitions",
    type=click.IntRange(1, 10_000),
    default=PARTITIONS,
    show_default=True,
    help="Partitions of created topics. At most this many workers share a stage.",
)
@click.option(
    "--reset-positions",
    is_flag=True,
    help="Read recreated topics from the beginning. Stop the workers first.",
)
@output_option
@click.pass_context
def command(ctx: click.Context, create_missing: bool, partitions: int, reset_positions: bool, output: Output) -> None:
    """Check the topics against what stormfold needs, and create missing ones."""
    settings = Settings()
    if reset_positions:
        partitions_reset = asyncio.run(_reset_positions(settings))
        click.echo(f"Positions reset: {', '.join(partitions_reset) or 'none, every position fits its topic'}", err=True)
    wanted = topics(settings, partitions)
    present, created = asyncio.run(_inspect(settings, wanted, create_missing))
    findings = validate(wanted, present)
    rows = [_row(topic, present.get(topic.name), findings, topic.name in created) for topic in wanted]
    emit(rows, COLUMNS, output)
    if findings:
        if output == "table":
            _print_hints(settings, findings)
        ctx.exit(1)


async def _reset_positions(settings: Settings) -> list[str]:
    async with connect(settings) as redis:
        return await reset_positions(settings, Store(redis, settings.redis_prefix))


async def _inspect(
    settings: Settings, wanted: Sequence[Topic], create_missing: bool
) -> tuple[dict[str, TopicState], list[str]]:
    async with open_admin(settings) as admin:
        created = await create(admin, wanted) if create_missing else []
        return await describe(admin, wanted), created


def _row(topic: Topic, present: TopicState | None, findings: Sequence[Finding], created: bool) -> dict[str, Any]:
    mine = [finding for finding in findings if finding.topic == topic.name]
    row: dict[str, Any] = {
        "topic": topic.name,
        "state": mine[0].state if mine else "created" if created else "ok",
        "purpose": topic.purpose,
        "problems": [finding.message for finding in mine],
    }
    if present:
        row["partitions"] = present.partitions
    if present and not present.denied:
        row |= {
            "timestamp_type": present.settings.get("message.timestamp.type"),
            "retention": _hours(present.settings.get("retention.ms", "")),
            "max_message_bytes": int(present.settings.get("max.message.bytes", 0)),
            "settings": {setting.name: present.settings.get(setting.name) for setting in topic.settings},
        }
    return row


def _hours(ms: str) -> str:
    return "unlimited" if ms == "-1" else f"{int(ms) / 3_600_000:g} h" if ms else ""


def _print_hints(settings: Settings, findings: Sequence[Finding]) -> None:
    click.echo(err=True)
    for finding in findings:
        if finding.setting:
            print_problem(
                f"{finding.topic}: {finding.message}",
                f"kafka-configs.sh --bootstrap-server {settings.kafka_bootstrap_servers} --alter"
                f" --topic {finding.topic} --add-config {finding.setting}",
            )
    if unknown := [finding.topic for finding in findings if finding.state == "unknown"]:
        print_problem(
            f"settings not known: {', '.join(unknown)}",
            "grant this user the operation DescribeConfigs on these topics, or run the command as another user",
        )
    if missing := [finding.topic for finding in findings if finding.state == "missing"]:
        print_problem(f"missing: {', '.join(missing)}", "stormfold topics --create")
