"""`stormfold dlq`: list dead letters with their reason, print one, and redrive them after a fix."""

import asyncio
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

import click
from aiokafka import ConsumerRecord

from stormfold.cli.output import Output, emit, limit_option, output_option
from stormfold.errors import ActionRequired
from stormfold.kafka import dlq
from stormfold.kafka.producer import Producer
from stormfold.kafka.reader import open_reader
from stormfold.settings import Settings
from stormfold.text import escape_unprintable, pluralize, truncate
from stormfold.times import format_timestamp

PREVIEW = 60
"""Characters of a record in the list."""
MAX_REASON = 80
"""Bytes of a reason in the table; JSON and YAML have all of it."""
BATCH_SIZE = 50
"""Records that are sent together; each may be as large as the topic allows."""


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  stormfold dlq
  stormfold dlq --show alerts-3-1204
  stormfold dlq redrive --origin alerts-3-1204
  stormfold dlq redrive --all --yes""",
)
@limit_option(50)
@click.option("--show", metavar="ORIGIN", help="Print the record of one dead letter, byte by byte.")
@output_option
@click.pass_context
def command(ctx: click.Context, limit: int, show: str | None, output: Output) -> None:
    """List dead letters, newest first. Exits with 1 if there are any, shown or not, that were not redriven."""
    if ctx.invoked_subcommand:
        return
    settings = Settings()
    if show is not None:
        asyncio.run(_show(settings, show))
        return
    letters = asyncio.run(_newest(settings, limit))
    rows = letters
    if output == "table":
        rows = [letter | {"reason": truncate(letter["reason"], MAX_REASON)} for letter in letters]
    emit(rows, ("time", "origin", "reason", "bytes", "redriven", "preview"), output)
    if output == "table" and not letters:
        click.echo("There are no dead letters.", err=True)
    done = all(letter["redriven"] for letter in letters)
    if done and len(letters) == limit:
        # There may be older ones that are not shown.
        done = all(letter["redriven"] for letter in asyncio.run(_all(settings)).values())
    ctx.exit(0 if done else 1)


@command.command(
    epilog="""\b
Examples:
  stormfold dlq redrive --origin alerts-3-1204 --origin alerts-0-77
  stormfold dlq redrive --all --yes"""
)
@click.option(
    "--origin", "origins", multiple=True, metavar="ORIGIN", help="Origin of a dead letter. Can be given several times."
)
@click.option("--all", "redrive_all", is_flag=True, help="Redrive all dead letters that were not redriven yet.")
@click.option("--again", is_flag=True, help="Include those that were redriven before.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def redrive(origins: Sequence[str], redrive_all: bool, again: bool, yes: bool) -> None:
    """Publish the records of dead letters again, unchanged, to the topic they came from.

    Each is a new record there and is counted as one. The dead letter stays and still counts for the old record.
    """
    if bool(origins) == redrive_all:
        raise click.UsageError("choose dead letters with --origin, or all with --all")
    settings = Settings()
    letters = asyncio.run(_all(settings))
    if unknown := [origin for origin in origins if origin not in letters]:
        raise _not_found(unknown[0])
    chosen = {origin: letter for origin, letter in letters.items() if redrive_all or origin in origins}
    truncated = {origin for origin, letter in chosen.items() if letter["bytes"] is None}
    for origin in truncated:
        click.echo(f"{escape_unprintable(origin)} is truncated: the record was too large to be kept.", err=True)
    done = set() if again else {origin for origin in chosen if chosen[origin]["redriven"]} - truncated
    if done:
        were = "was" if len(done) == 1 else "were"
        click.echo(f"{pluralize(len(done), 'record')} {were} redriven before; --again repeats it.", err=True)
    wanted = chosen.keys() - truncated - done
    if not wanted:
        click.echo("Nothing to redrive.", err=True)
        return
    if not yes:
        _confirm(f"Publish {pluralize(len(wanted), 'record')} again?")
    too_large = asyncio.run(_redrive(settings, wanted))
    published = wanted - too_large
    for topic in sorted({chosen[origin]["topic"] for origin in published}):
        redriven = sum(chosen[origin]["topic"] == topic for origin in published)
        click.echo(
            f"Published {pluralize(redriven, 'record')} to {_topics(settings)[topic]} again;"
            f" those that are still invalid return to {topic}."
        )
    for origin in sorted(too_large):
        target = _topics(settings)[chosen[origin]["topic"]]
        click.echo(
            f"{escape_unprintable(origin)} is larger than {target} takes, with the header of a redrive.", err=True
        )
    if too_large:
        raise ActionRequired(
            f"{pluralize(len(too_large), 'record')} not published again",
            "raise max.message.bytes of the topic, and retry",
        )


def _confirm(question: str) -> None:
    """Raises `Abort` if the answer is no, and `UsageError` if there is nobody to ask."""
    try:
        agreed = click.confirm(question)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        raise click.UsageError("there is no terminal to ask for confirmation; use --yes") from None
    if not agreed:
        raise click.Abort


def _topics(settings: Settings) -> dict[str, str]:
    """Dead-letter topic → the topic that its records came from."""
    return {
        settings.alerts_dlq_topic: settings.alerts_topic,
        settings.storms_dlq_topic: settings.storms_topic,
        settings.incidents_dlq_topic: settings.incidents_topic,
    }


async def _newest(settings: Settings, limit: int) -> list[dict[str, Any]]:
    """The newest dead letters of all topics, newest first."""
    redriven: set[str] = set()

    def name(record: ConsumerRecord) -> str | None:
        # A mark follows its letter, so the newest letters are read together with their marks.
        if dlq.is_redrive_mark(record):
            redriven.add(dlq.redriven_origin(record))
            return None
        return dlq.origin(record)

    async with open_reader(settings) as reader:
        records = [record for topic in _topics(settings) for record in await reader.newest(topic, limit, name)]
    records.sort(key=lambda record: record.timestamp, reverse=True)
    return [_row(record) | {"redriven": dlq.origin(record) in redriven} for record in records[:limit]]


async def _all(settings: Settings) -> dict[str, dict[str, Any]]:
    """All dead letters, by origin."""
    letters: dict[str, dict[str, Any]] = {}
    redriven: set[str] = set()
    async with open_reader(settings) as reader:
        for topic in _topics(settings):
            async for record in reader.read(topic):
                if dlq.is_redrive_mark(record):
                    redriven.add(dlq.redriven_origin(record))
                else:
                    letters[dlq.origin(record)] = _row(record)
    return {origin: letter | {"redriven": origin in redriven} for origin, letter in letters.items()}


async def _show(settings: Settings, origin: str) -> None:
    found = [record async for record in _letters(settings, {origin})]
    if not found:
        raise _not_found(origin)
    if dlq.is_truncated(found[-1]):
        raise ActionRequired(
            f"{origin} is truncated: the record was too large to be kept", "read the record in its own topic"
        )
    value = found[-1].value or b""
    if sys.stdout.isatty():
        click.echo("\n".join(escape_unprintable(line) for line in value.decode(errors="backslashreplace").split("\n")))
    else:
        click.get_binary_stream("stdout").write(value)


async def _redrive(settings: Settings, origins: Collection[str]) -> set[str]:
    """Redrives the dead letters with these origins; several letters of a record are one.

    Returns the origins of records that are too large.
    """
    producer = Producer(settings, "redrive")
    targets = _topics(settings)
    sent: set[str] = set()
    too_large: set[str] = set()
    batch: list[ConsumerRecord] = []
    try:
        async for record in _letters(settings, origins):
            if batch and (len(batch) == BATCH_SIZE or batch[0].topic != record.topic):
                too_large.update(await dlq.redrive(producer, batch, targets[batch[0].topic]))
                batch.clear()
            if dlq.origin(record) not in sent:
                sent.add(dlq.origin(record))
                batch.append(record)
        if batch:
            too_large.update(await dlq.redrive(producer, batch, targets[batch[0].topic]))
    finally:
        await producer.stop()
    return too_large


async def _letters(settings: Settings, origins: Collection[str]) -> AsyncIterator[ConsumerRecord]:
    """The dead letters with these origins, one topic after the other."""
    async with open_reader(settings) as reader:
        for topic in _topics(settings):
            async for record in reader.read(topic):
                if not dlq.is_redrive_mark(record) and dlq.origin(record) in origins:
                    yield record


def _row(record: ConsumerRecord) -> dict[str, Any]:
    value: bytes = record.value or b""
    return {
        "time": format_timestamp(record.timestamp),
        "topic": record.topic,
        "origin": dlq.origin(record),
        "reason": dlq.reason(record),
        "bytes": None if dlq.is_truncated(record) else len(value),
        "preview": value[: 4 * PREVIEW].decode(errors="replace")[:PREVIEW],
    }


def _not_found(origin: str) -> ActionRequired:
    return ActionRequired(f"there is no dead letter with the origin {origin}", "run `stormfold dlq` for a list")
