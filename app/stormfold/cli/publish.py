"""`stormfold publish`: alerts from a file or a pipe into the alerts topic."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from io import SEEK_END
from itertools import islice
from typing import BinaryIO

import click
from aiokafka.errors import MessageSizeTooLargeError
from rich.console import Console
from rich.progress import Progress

from stormfold.cli.alert_file import Record, read
from stormfold.decoding import Poison
from stormfold.errors import ActionRequired
from stormfold.formats import parse
from stormfold.kafka.producer import Producer, ProducerRecord
from stormfold.kafka.topics import partitions_of
from stormfold.settings import Settings
from stormfold.text import escape_unprintable, pluralize

AT_ONCE = 1_000
"""Records on their way to the brokers at a time."""
SHOWN = 5
"""Of the records that are not understood."""
LONG = 4 * 1024 * 1024
"""Bytes from which on there is a progress bar."""


@click.command(
    epilog="""\b
Examples:
  stormfold publish alerts.json
  amtool alert query -o json | stormfold publish -

Exits with 1 if something isn't understood; nothing is published then."""
)
@click.argument("file", type=click.File("rb"))
@click.option("--force", is_flag=True, help="Publish what is not understood too; it ends in the dead-letter topic.")
def command(file: BinaryIO, force: bool) -> None:
    """Publish the alerts in FILE, or those on standard input for `-`.

    FILE is one JSON document, or one on each line, in any format that is understood: Alertmanager webhooks, lists of
    alerts, single alerts, Kubernetes Events, CloudEvents. Each becomes a record, a long list several. All of it is
    looked at before any of it is published.
    """
    settings = Settings()
    name = "standard input" if file is click.get_binary_stream("stdin") else click.format_filename(file.name)
    with ExitStack() as stack:
        if not file.seekable():
            # It is read twice.
            piped, file = file, stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(piped, file)
        size = file.seek(0, SEEK_END)
        console = Console(stderr=True)
        progress = stack.enter_context(
            Progress(console=console, transient=True, disable=not console.is_terminal or size < LONG)
        )

        def records(doing: str) -> Iterator[Record]:
            file.seek(0)
            return read(progress.wrap_file(file, size, description=doing), name)

        alerts, strange = _look(records("Looking"))
        for line, reason in strange[:SHOWN]:
            click.echo(f"{name}:{line}: not understood: {escape_unprintable(reason)}", err=True)
        if strange[SHOWN:]:
            click.echo(f"and {len(strange) - SHOWN:,} more", err=True)
        if strange and not force:
            raise ActionRequired(
                f"nothing is published: {pluralize(len(strange), 'record')} of {name} not understood",
                "mend them, or publish them all the same with --force",
            )
        sent = asyncio.run(publish(settings, records("Publishing")))
    click.echo(f"{pluralize(alerts, 'alert')} in {pluralize(sent, 'record')} published to {settings.alerts_topic}")


def _look(records: Iterable[Record]) -> tuple[int, list[tuple[int, str]]]:
    """How many alerts are understood; line and reason of each record that is not."""
    now = round(time.time() * 1000)
    alerts, strange = 0, []
    for record in records:
        try:
            alerts += len(parse(record.value, [], now))
        except Poison as reason:
            strange.append((record.line, str(reason)))
    return alerts, strange


async def publish(settings: Settings, records: Iterable[Record]) -> int:
    """Publishes the records, over all partitions; returns how many. Raises `ActionRequired` or `Retry`."""
    topic = settings.alerts_topic
    partitions = len(await partitions_of(settings, topic))
    producer = Producer(settings, "publish")
    count = 0
    source = iter(records)
    try:
        while some := [ProducerRecord(None, record.value) for record in islice(source, AT_ONCE)]:
            await producer.send(topic, {p: some[p::partitions] for p in range(min(partitions, len(some)))})
            count += len(some)
    except ActionRequired as stop:
        if isinstance(stop.__cause__, MessageSizeTooLargeError):
            raise ActionRequired(
                f"a record is larger than {topic} takes; {count:,} before it were published",
                f"raise max.message.bytes of {topic}",
            ) from stop
        raise
    finally:
        await producer.stop()
    return count
