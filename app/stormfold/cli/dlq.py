"""`stormfold dlq`: what was not understood or was rejected, why, and publishing it again after a fix."""

import asyncio
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import click
from aiokafka import ConsumerRecord

from stormfold.cli.output import Output, emit, output_option
from stormfold.errors import ActionRequired
from stormfold.kafka import dlq
from stormfold.kafka.producer import Producer
from stormfold.kafka.reader import TopicReader, open_reader
from stormfold.settings import Settings
from stormfold.text import escape_unprintable, pluralize
from stormfold.times import format_timestamp

PREVIEW = 60
"""Characters of a dead record that the list shows."""
AT_ONCE = 50
"""Records on their way to the brokers at a time; each may be as large as a topic takes."""


@dataclass(slots=True)
class Dead:
    """A dead letter, without the record itself."""

    topic: str
    origin: str
    """topic-partition-offset of the record as it was first read."""
    reason: str
    died: int
    """When it was put there (ms)."""
    size: int | None
    """Bytes of the record; None if it was too large to be kept: then there is only its origin and the reason."""
    preview: str
    redriven: bool = False


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  stormfold dlq
  stormfold dlq --show alerts-3-1204
  stormfold dlq redrive --origin alerts-3-1204
  stormfold dlq redrive --all --yes""",
)
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="At most so many.")
@click.option("--show", metavar="ORIGIN", help="Print one dead record as it came, byte by byte.")
@output_option
@click.pass_context
def command(ctx: click.Context, limit: int, show: str | None, output: Output) -> None:
    """List dead letters, newest first; exits with 1 if there are any that were not published again."""
    if ctx.invoked_subcommand:
        return
    if show is not None:
        asyncio.run(_show(Settings(), show))
        return
    letters = asyncio.run(_newest(Settings(), limit))
    emit([_row(letter) for letter in letters], ("time", "origin", "reason", "bytes", "redriven", "preview"), output)
    if output == "table" and not letters:
        click.echo("No dead letters.", err=True)
    ctx.exit(1 if any(not letter.redriven for letter in letters) else 0)


@command.command(
    epilog="""\b
Examples:
  stormfold dlq redrive --origin alerts-3-1204 --origin alerts-0-77
  stormfold dlq redrive --all --yes"""
)
@click.option("--origin", "origins", multiple=True, metavar="ORIGIN", help="One of the list; may be given repeatedly.")
@click.option("--all", "everything", is_flag=True, help="All that were not published again yet.")
@click.option("--again", is_flag=True, help="Also those that were.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
def redrive(origins: Sequence[str], everything: bool, again: bool, yes: bool) -> None:
    """Publish dead records again to the topic they came from, as they were.

    Each becomes a new record there and is counted as such; the dead letter stays, counted as the old one.
    """
    if bool(origins) == everything:
        raise click.UsageError("name dead letters with --origin, or take --all")
    settings = Settings()
    letters = asyncio.run(_all(settings))
    if missing := [origin for origin in origins if origin not in letters]:
        raise _unknown(missing[0])
    chosen = [letter for origin, letter in letters.items() if everything or origin in origins]
    gone = [letter for letter in chosen if letter.size is None]
    for letter in gone:
        click.echo(
            f"{escape_unprintable(letter.origin)} was too large to be kept; it can't be published from here.", err=True
        )
    done = [letter for letter in chosen if letter.size is not None and letter.redriven and not again]
    if done:
        click.echo(
            f"{len(done):,} {'was' if len(done) == 1 else 'were'} published again before; --again does it once more.",
            err=True,
        )
    chosen = [letter for letter in chosen if letter not in gone and letter not in done]
    if not chosen:
        click.echo("Nothing to publish again.", err=True)
        return
    if not yes:
        _ask(f"Publish {pluralize(len(chosen), 'record')} again?")
    count = asyncio.run(_redrive(settings, {letter.origin for letter in chosen}))
    click.echo(f"Published {pluralize(count, 'record')} again.")


def _ask(question: str) -> None:
    """Raises `Abort` unless somebody says yes."""
    try:
        agreed = click.confirm(question)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        raise click.UsageError("nobody is there to answer; --yes asks nothing") from None
    if not agreed:
        raise click.Abort


def _topics(settings: Settings) -> dict[str, str]:
    """Dead-letter topic → where its records came from."""
    return {settings.alerts_dlq_topic: settings.alerts_topic, settings.storms_dlq_topic: settings.storms_topic}


async def _newest(settings: Settings, limit: int) -> list[Dead]:
    """The newest of both topics, newest first. Marks come after what they mark, so they are seen too."""
    redriven: set[str] = set()

    def name(record: ConsumerRecord) -> str | None:
        if dlq.is_redrive_mark(record):
            redriven.add(dlq.redriven_origin(record))
            return None
        return dlq.origin(record)

    async with open_reader(settings) as tail:
        records = [record for topic in _topics(settings) for record in await tail.newest(topic, limit, name)]
    letters = sorted(map(_letter, records), key=lambda letter: letter.died, reverse=True)[:limit]
    for letter in letters:
        letter.redriven = letter.origin in redriven
    return letters


async def _all(settings: Settings) -> dict[str, Dead]:
    """All of both topics, by origin."""
    letters: dict[str, Dead] = {}
    redriven: set[str] = set()
    async with open_reader(settings) as tail:
        for topic in _topics(settings):
            async for record in tail.read(topic):
                if dlq.is_redrive_mark(record):
                    redriven.add(dlq.redriven_origin(record))
                else:
                    letters[dlq.origin(record)] = _letter(record)
    for origin in redriven & letters.keys():
        letters[origin].redriven = True
    return letters


async def _show(settings: Settings, origin: str) -> None:
    found: ConsumerRecord | None = None
    async with open_reader(settings) as tail:
        for topic in _topics(settings):
            async for record in tail.read(topic):
                if not dlq.is_redrive_mark(record) and dlq.origin(record) == origin:
                    found = record
    if found is None:
        raise _unknown(origin)
    if dlq.is_truncated(found):
        raise ActionRequired(f"{origin} was too large to be kept", "it is in its own topic as long as that keeps it")
    value = found.value or b""
    if sys.stdout.isatty():
        click.echo("\n".join(escape_unprintable(line) for line in value.decode(errors="backslashreplace").split("\n")))
    else:
        click.get_binary_stream("stdout").write(value)


async def _redrive(settings: Settings, origins: Collection[str]) -> int:
    """Publishes the records of these origins again, one record each; returns how many."""
    producer = Producer(settings, "redrive")
    sent: set[str] = set()
    try:
        async with open_reader(settings) as tail:
            for topic, target in _topics(settings).items():
                batch: list[ConsumerRecord] = []
                async for record in _wanted(tail, topic, origins):
                    # A record that died twice, as after a crash, is one all the same.
                    if dlq.origin(record) not in sent:
                        sent.add(dlq.origin(record))
                        batch.append(record)
                    if len(batch) == AT_ONCE:
                        await dlq.redrive(producer, batch, target)
                        batch.clear()
                await dlq.redrive(producer, batch, target)
    finally:
        await producer.stop()
    return len(sent)


async def _wanted(tail: TopicReader, topic: str, origins: Collection[str]) -> AsyncIterator[ConsumerRecord]:
    async for record in tail.read(topic):
        if not dlq.is_redrive_mark(record) and dlq.origin(record) in origins:
            yield record


def _letter(record: ConsumerRecord) -> Dead:
    value: bytes = record.value or b""
    return Dead(
        topic=record.topic,
        origin=dlq.origin(record),
        reason=dlq.reason(record),
        died=record.timestamp,
        size=None if dlq.is_truncated(record) else len(value),
        preview=value[: 4 * PREVIEW].decode(errors="replace")[:PREVIEW],
    )


def _row(letter: Dead) -> dict[str, Any]:
    return {
        "time": format_timestamp(letter.died),
        "topic": letter.topic,
        "origin": letter.origin,
        "reason": letter.reason,
        "bytes": letter.size,
        "redriven": letter.redriven,
        "preview": letter.preview,
    }


def _unknown(origin: str) -> ActionRequired:
    return ActionRequired(f"there is no dead letter {origin}", "`stormfold dlq` lists them")
