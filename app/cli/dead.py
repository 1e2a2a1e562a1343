"""`stormfold dead`: what was not understood or was rejected, why, and publishing it again after a fix."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
from aiokafka import ConsumerRecord

from app.cli.output import Output, emit, output_option
from app.errors import Stop
from app.kafka.producer import Outgoing, Producer
from app.kafka.tail import open_tail
from app.settings import Settings
from app.storm import timestamp

REASON, ORIGIN, CUT = "stormfold-reason", "stormfold-origin", "stormfold-cut"
REDRIVEN = "stormfold-redriven"
"""Header of a record in a dead-letter topic that says: this origin has been published again."""
PREVIEW = 60
"""Characters of a dead record that the list shows."""


@dataclass(frozen=True, slots=True)
class Dead:
    """A dead letter."""

    topic: str
    origin: str
    """topic-partition-offset of the record as it was first read."""
    reason: str
    record: ConsumerRecord
    redriven: bool

    @property
    def whole(self) -> bool:
        """Whether the record itself is there: one too large for the topic is recorded by origin and reason only."""
        return CUT not in dict(self.record.headers)


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  stormfold dead
  stormfold dead --show alerts-3-1204
  stormfold dead redrive --origin alerts-3-1204
  stormfold dead redrive --all --yes""",
)
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="At most so many.")
@click.option("--show", metavar="ORIGIN", help="Print one dead record as it came, byte by byte.")
@output_option
@click.pass_context
def command(ctx: click.Context, limit: int, show: str | None, output: Output) -> None:
    """List dead letters, newest last; exits with 1 if there are any that were not published again."""
    if ctx.invoked_subcommand:
        return
    letters = asyncio.run(_letters(Settings()))
    if show is not None:
        (found,) = _named(letters, [show])
        click.get_binary_stream("stdout").write(found.record.value or b"")
        return
    rows = [_row(letter) for letter in letters[-limit:]]
    emit(rows, ("time", "origin", "reason", "bytes", "redriven", "preview"), output)
    if output == "table" and not rows:
        click.echo("No dead letters.", err=True)
    ctx.exit(1 if any(not letter.redriven for letter in letters) else 0)


@command.command()
@click.option("--origin", "origins", multiple=True, metavar="ORIGIN", help="One of the list; may be given again.")
@click.option("--all", "everything", is_flag=True, help="All that were not published again yet.")
@click.option("--again", is_flag=True, help="Also those that were.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
def redrive(origins: Sequence[str], everything: bool, again: bool, yes: bool) -> None:
    """Publish dead records again to the topic they came from, as they were.

    Each becomes a new record there and is counted as such; the dead letter stays counted as the old one.
    """
    if bool(origins) == everything:
        raise click.UsageError("name dead letters with --origin, or take --all")
    settings = Settings()
    letters = asyncio.run(_letters(settings))
    chosen = letters if everything else _named(letters, origins)
    chosen = [letter for letter in chosen if letter.whole and (again or not letter.redriven)]
    if not chosen:
        click.echo("Nothing to publish again.", err=True)
        return
    if not yes:
        click.confirm(f"Publish {len(chosen)} records again?", abort=True)
    asyncio.run(_redrive(settings, chosen))
    click.echo(f"Published {len(chosen)} records again.")


async def _letters(settings: Settings) -> list[Dead]:
    """Distinct dead letters of both topics, oldest first."""
    found: dict[str, tuple[str, ConsumerRecord]] = {}
    redriven: set[str] = set()
    async with open_tail(settings) as tail:
        for topic in (settings.dead_topic, settings.storms_dead_topic):
            async for record in tail.read(topic):
                origin = _header(record, ORIGIN) or f"{topic}-{record.partition}-{record.offset}"
                if REDRIVEN in dict(record.headers):
                    redriven.add(origin)
                else:
                    found.setdefault(origin, (topic, record))
    letters = [
        Dead(topic, origin, _header(record, REASON), record, origin in redriven)
        for origin, (topic, record) in found.items()
    ]
    return sorted(letters, key=lambda letter: letter.record.timestamp)


async def _redrive(settings: Settings, letters: Sequence[Dead]) -> None:
    producer = Producer(settings, "redrive")
    try:
        for letter in letters:
            target = settings.alerts_topic if letter.topic == settings.dead_topic else settings.storms_topic
            record = letter.record
            headers = [header for header in record.headers if not header[0].startswith("stormfold-")]
            await producer.send_keyed(target, Outgoing(record.key, record.value), headers)
            note = [(ORIGIN, letter.origin.encode()), (REDRIVEN, b"1")]
            await producer.send_keyed(letter.topic, Outgoing(letter.origin.encode(), None), note)
    finally:
        await producer.stop()


def _named(letters: Sequence[Dead], origins: Sequence[str]) -> list[Dead]:
    by_origin = {letter.origin: letter for letter in letters}
    for origin in origins:
        if origin not in by_origin:
            raise Stop(f"there is no dead letter {origin}", "`stormfold dead` lists them")
    return [by_origin[origin] for origin in origins]


def _row(letter: Dead) -> dict[str, Any]:
    value: bytes = letter.record.value or b""
    return {
        "time": timestamp(letter.record.timestamp),
        "origin": letter.origin,
        "reason": letter.reason,
        "bytes": len(value) if letter.whole else None,
        "redriven": letter.redriven,
        "preview": value[:PREVIEW].decode(errors="replace"),
    }


def _header(record: ConsumerRecord, name: str) -> str:
    return (dict(record.headers).get(name) or b"").decode(errors="replace")
