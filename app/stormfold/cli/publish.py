"""`stormfold publish`: alerts from a file or a pipe into the alerts topic."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from io import SEEK_END
from typing import BinaryIO

import click
from rich.console import Console
from rich.progress import Progress

from stormfold.cli.alert_file import Record, read
from stormfold.cli.publication import Publication, Run, delivered_records
from stormfold.config import load
from stormfold.decoding import Poison
from stormfold.errors import ActionRequired
from stormfold.formats import check_contents, parse
from stormfold.formats.mappings import Mappings
from stormfold.settings import Settings
from stormfold.text import escape_unprintable, pluralize

MAX_ERRORS = 5
"""Records that cannot be parsed and are reported one by one."""
PROGRESS_BYTES = 4 * 1024 * 1024
"""Size of a file from which on there is a progress bar."""


@click.command(
    epilog="""\b
Examples:
  stormfold publish alerts.json
  amtool alert query -o json | stormfold publish -

Exits with 1 and publishes nothing if a record cannot be parsed. Exits with 1 if Kafka acknowledges nothing for 60 s;
the message has what was delivered, and the option that publishes the rest without duplicates."""
)
@click.argument("file", type=click.File("rb"))
@click.option(
    "--force", is_flag=True, help="Also publish records that are JSON but not alerts; they become dead letters."
)
@click.option(
    "--resume",
    metavar="PUBLICATION",
    help="Publish what is missing of a publication that failed, as its message names it; FILE must be the same.",
)
def command(file: BinaryIO, force: bool, resume: str | None) -> None:
    """Publish the alerts in FILE, or those on standard input for `-`.

    FILE is one JSON document, or one per line, in any supported format: Alertmanager webhooks, lists of alerts, single
    alerts, Kubernetes Events, CloudEvents, records that a mapping reads. Each document becomes a record, a long list
    several. The whole file is checked before anything is published.
    """
    settings = Settings()
    mappings = Mappings(load(settings.config).mappings)
    name = "standard input" if file is click.get_binary_stream("stdin") else click.format_filename(file.name)
    with ExitStack() as stack:
        if not file.seekable():
            # The file is read twice.
            piped, file = file, stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(piped, file)
        size = file.seek(0, SEEK_END)
        console = Console(stderr=True)
        progress = stack.enter_context(
            Progress(console=console, transient=True, disable=not console.is_terminal or size < PROGRESS_BYTES)
        )

        def records(description: str) -> Iterator[Record]:
            file.seek(0)
            return read(progress.wrap_file(file, size, description=description), name)

        alerts, errors = _check(records("Checking"), mappings)
        for line, reason in errors[:MAX_ERRORS]:
            click.echo(f"{name}:{line}: cannot be parsed: {escape_unprintable(reason)}", err=True)
        if len(errors) > MAX_ERRORS:
            click.echo(f"and {len(errors) - MAX_ERRORS:,} more", err=True)
        if errors and not force:
            raise ActionRequired(
                f"nothing was published: {pluralize(len(errors), 'record')} of {name} cannot be parsed",
                "correct the file, or publish it as it is with --force",
            )
        run, before = Run.begin(file), frozenset[int]()
        if resume is not None:
            run = Run.parse(resume)
            before = asyncio.run(delivered_records(settings, run, file, name))
        values = (record.value for record in records("Publishing"))
        sent = asyncio.run(Publication(settings, run).send(values, before))
    if resume is None:
        click.echo(f"{pluralize(alerts, 'alert')} in {pluralize(sent, 'record')} published to {settings.alerts_topic}")
    else:
        click.echo(
            f"{pluralize(sent, 'record')} published to {settings.alerts_topic};"
            f" {pluralize(len(before), 'record')} had been delivered before"
        )


def _check(records: Iterable[Record], mappings: Mappings) -> tuple[int, list[tuple[int, str]]]:
    """Returns the number of alerts, and line and reason of each record that cannot be parsed."""
    now = round(time.time() * 1000)
    alerts, errors = 0, []
    for record in records:
        try:
            found = parse(record.value, [], now, mappings)
            check_contents(found)
            alerts += len(found)
        except Poison as reason:
            errors.append((record.line, str(reason)))
    return alerts, errors
