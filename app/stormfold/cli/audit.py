"""`stormfold audit`: verify that every alert was counted exactly once."""

import asyncio
from dataclasses import asdict
from pathlib import Path

import click

from stormfold.audit import AuditReport, audit
from stormfold.cli.output import Output, config_option, emit, output_option
from stormfold.config import load
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings


@click.command(
    epilog="""\b
Examples:
  stormfold audit
  stormfold audit --wait 120 -o json

Exits with 1 if the counts or incidents do not match, or if not all alerts were processed in time."""
)
@config_option
@click.option(
    "--wait",
    type=click.FloatRange(0, 86_400),
    default=30.0,
    show_default=True,
    help="Seconds to wait until all published alerts are folded. While alerts keep arriving, the counts can differ.",
)
@output_option
@click.pass_context
def command(ctx: click.Context, config: Path | None, wait: float, output: Output) -> None:
    """Verify that every alert was counted exactly once: in an aggregate, in a dead letter, or in an open group.

    Also compares the incidents that are over with those that the storms give.
    """
    settings = Settings()
    report = asyncio.run(_audit(settings, config or settings.config, wait))
    row = {**asdict(report), "difference": report.difference, "balanced": report.balanced, "correct": report.correct}
    emit([row], ["alerts", "aggregated", "dead_letters", "open", "difference", "aggregates"], output)
    if output == "table":
        click.echo(report.verdict, err=not report.balanced)
        if report.incidents is not None:
            click.echo(report.incidents.verdict, err=not report.incidents.matches)
    ctx.exit(0 if report.correct else 1)


async def _audit(settings: Settings, config: Path | None, wait: float) -> AuditReport:
    async with connect(settings) as redis:
        return await audit(settings, load(config), Store(redis, settings.redis_prefix), wait)
