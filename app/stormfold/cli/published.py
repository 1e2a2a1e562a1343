"""Lists the newest records of a topic of manifests, and follows it: what `storms` and `incidents` share."""

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import click
import msgspec
from aiokafka import ConsumerRecord
from rich.console import Console

from stormfold.cli.output import Output, emit, emit_document, fitting
from stormfold.decoding import Malformed, decode_untrusted
from stormfold.kafka.reader import TopicReader, open_reader
from stormfold.settings import Settings
from stormfold.text import escape_unprintable

Row = Mapping[str, Any]

PRIORITY = (
    "name", "alerts", "storms", "severity", "last seen", "resources", "pattern", "started with", "namespace", "class",
    "close reason",
)  # fmt: skip
"""Columns on a narrow terminal, the most important first."""
MIN_TEXT = 40
"""Width from which on `--watch` prints a column of any width on a terminal."""


@dataclass(frozen=True)
class Published:
    """The resources in a topic, and how they are shown."""

    topic: str
    columns: Mapping[str, int]
    """Columns of the table, and their widths if `--watch` prints line by line."""
    row: Callable[[Mapping[str, Any]], Row | None]
    """The row of a manifest, None if it is not wanted. Raises `Malformed` if it is not one."""
    none: str
    """What is printed if there are none."""
    unpublished: Callable[[Settings], Awaitable[Sequence[Row]]] | None = None
    """Returns rows of the table for resources that are still forming."""

    async def list_newest(self, settings: Settings, limit: int, output: Output) -> None:
        """Prints the newest, the latest first."""
        async with open_reader(settings) as reader:
            manifests = await self._recent(reader, limit)
        if output != "table":
            emit_document({"apiVersion": "v1", "kind": "List", "items": manifests}, output)
            return
        forming = await self.unpublished(settings) if self.unpublished else []
        emit(
            [*forming, *(row for manifest in manifests if (row := self.row(manifest)))], self.columns, output, PRIORITY
        )
        if not manifests and not forming:
            click.echo(self.none, err=True)

    async def watch(self, settings: Settings, limit: int, output: Output) -> None:
        """Prints the newest, the oldest first, then new ones as they are published, without end."""
        if output == "table":
            click.echo(self._line({column: column.upper() for column in self._shown}))
        async with open_reader(settings) as reader:
            # The ends are read first, so that nothing is missed that is published after the list.
            ends = await reader.end_offsets(self.topic)
            manifests = await self._recent(reader, limit)
            shown = {manifest["metadata"]["name"] for manifest in manifests}
            for manifest in reversed(manifests):
                self._print(manifest, output)
            async with aclosing(reader.read_batches(self.topic, ends, None)) as polls:
                async for records in polls:
                    for record in records:
                        found = self._manifest(record)
                        if found is not None and found["metadata"]["name"] not in shown:
                            shown.add(found["metadata"]["name"])
                            self._print(found, output)

    async def _recent(self, reader: TopicReader, limit: int) -> list[dict[str, Any]]:
        def name(record: ConsumerRecord) -> str | None:
            manifest = self._manifest(record)
            return None if manifest is None else str(manifest["metadata"]["name"])

        # After an outage many are published at once, in no particular order.
        manifests = [msgspec.json.decode(record.value) for record in await reader.newest(self.topic, limit, name)]
        return sorted(manifests, key=lambda manifest: str(manifest["spec"]["lastSeen"]), reverse=True)[:limit]

    def _manifest(self, record: ConsumerRecord) -> dict[str, Any] | None:
        """The manifest in a record; None if it is not one, or not wanted."""
        try:
            manifest: dict[str, Any] = decode_untrusted(msgspec.json.decode, record.value)
            return manifest if self.row(manifest) else None
        except Malformed:
            return None

    def _print(self, manifest: Mapping[str, Any], output: Output) -> None:
        """Prints one resource of `--watch`."""
        if output == "table":
            click.echo(self._line(self.row(manifest) or {}))
            return
        if output == "yaml":
            click.echo("---")
        emit_document(manifest, output)

    def _line(self, row: Row) -> str:
        return "  ".join(
            f"{escape_unprintable(str(row[column])):{self.columns[column] or ''}}" for column in self._shown
        ).rstrip()

    @cached_property
    def _shown(self) -> list[str]:
        """The columns that `--watch` prints: all, or those that fit on the terminal."""
        if not sys.stdout.isatty():
            return list(self.columns)
        widths = {column: width or MIN_TEXT for column, width in self.columns.items()}
        return fitting(widths, PRIORITY, Console().width)


def watch_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--watch` to a command."""
    text = "Show the oldest first, then new ones as they are published, until Ctrl-C."
    return click.option("--watch", is_flag=True, help=text)(function)
