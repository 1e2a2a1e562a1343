"""`stormfold audit`: do the books balance."""

import asyncio
from dataclasses import asdict
from pathlib import Path

import click

from stormfold.audit import AuditReport, audit
from stormfold.cli.output import Output, emit, output_option
from stormfold.config import load
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.text import pluralize


@click.command(
    epilog="""\b
Examples:
  stormfold audit
  stormfold audit --wait 120 -o json

Exits with 1 if the books do not balance, or if not all alerts had been taken up in time."""
)
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file; else STORMFOLD_CONFIG, else none.")
@click.option(
    "--wait",
    type=click.FloatRange(0, 86_400),
    default=30.0,
    show_default=True,
    help="Seconds to wait until what was published is folded. While alerts keep coming the books are never still.",
)
@output_option
@click.pass_context
def command(ctx: click.Context, config: Path | None, wait: float, output: Output) -> None:
    """Prove that every alert is counted once: in a storm, in a dead letter, or in a group still open."""
    settings = Settings()
    books = asyncio.run(_audit(settings, config or settings.config, wait))
    row = {**asdict(books), "difference": books.difference, "balanced": books.balanced}
    emit([row], ["alerts", "storms", "dead", "open", "difference", "names"], output)
    if output == "table":
        click.echo(verdict(books), err=not books.balanced)
    ctx.exit(0 if books.balanced else 1)


def verdict(books: AuditReport) -> str:
    """The books in one sentence."""
    foreign = ""
    if books.foreign:
        are = "is" if books.foreign == 1 else "are"
        foreign = f" {pluralize(books.foreign, 'record')} in storms or dead letters {are} not ours."
    if books.unread:
        have = "has" if books.unread == 1 else "have"
        return f"Not known yet: {pluralize(books.unread, 'record')} {have} not been taken up; see `stormfold status`."
    if books.balanced:
        still = f", {books.open:,} in groups still open" if books.open else ""
        others = f" and {pluralize(books.others, 'other group')}" if books.others else ""
        return (
            f"The books balance: {pluralize(books.alerts, 'alert')} = {books.storms:,} in"
            f" {pluralize(books.names - books.others, 'storm')}{others}"
            f" + {pluralize(books.dead, 'dead letter')}{still}.{foreign}"
        )
    what = "missing" if books.difference > 0 else "too many"
    trimmed = f" Retention has taken {pluralize(books.trimmed, 'record')} of alerts." if books.trimmed else ""
    return f"The books do not balance: {pluralize(abs(books.difference), 'alert')} {what}.{trimmed}{foreign}"


async def _audit(settings: Settings, config: Path | None, wait: float) -> AuditReport:
    async with connect(settings) as redis:
        return await audit(settings, load(config), Store(redis, settings.redis_prefix), wait)
