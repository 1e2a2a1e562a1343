"""Options and output that commands share: tables for people, JSON and YAML for programs.

Text of alerts is escaped: it cannot control a terminal.
"""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
import yaml
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stormfold.text import escape_unprintable

Output = Literal["table", "json", "yaml"]
_F = TypeVar("_F", bound=Callable[..., Any])

GAP = 3
"""Characters between two columns on a terminal."""
_WIDE = 10_000
"""Columns if there is no terminal: nothing is wrapped or cut."""


def output_option(function: _F) -> _F:
    """Adds `-o` to a command, as its parameter `output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        help="Output format.",
    )(function)


def config_option(function: _F) -> _F:
    """Adds `--config` to a command, as its parameter `config`."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="Configuration file; default: STORMFOLD_CONFIG, or built-in defaults.",
    )(function)


def limit_option(default: int) -> Callable[[_F], _F]:
    """Adds `--limit` to a command, as its parameter `limit`."""
    return click.option(
        "--limit", type=click.IntRange(1, 100_000), default=default, show_default=True, help="Maximum number to show."
    )


def emit(
    rows: Sequence[Mapping[str, Any]], columns: Collection[str], output: Output, priority: Sequence[str] = ()
) -> None:
    """Prints rows: as a table, only the keys in `columns`; as JSON or YAML, completely. See `emit_table`."""
    if output == "table":
        emit_table(rows, columns, priority)
    else:
        emit_document([dict(row) for row in rows], output)


def table(rows: Sequence[Mapping[str, Any]], columns: Collection[str], plain: bool = False) -> Table:
    """The rows as a rich table, without lines if `plain`."""
    result = Table(
        box=None if plain else box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="" if plain else "bold"
    )
    for key in columns:
        numbers = all(type(row.get(key)) in (int, float) for row in rows)
        heading = re.sub(r"_|(?<=[a-z])(?=[A-Z])", " ", key).upper()
        result.add_column(heading, justify="right" if numbers else "left", overflow="fold", no_wrap=plain)
    for row in rows:
        result.add_row(*(Text(_cell(row.get(key))) for key in columns))
    return result


def emit_table(rows: Sequence[Mapping[str, Any]], columns: Collection[str], priority: Sequence[str] = ()) -> None:
    """Prints rows as a table: with lines and colours on a terminal, else as plain aligned columns.

    On a terminal that is too narrow, only those columns of `priority` are printed that fit, the first ones at the
    earliest; without `priority`, cells are folded.
    """
    if sys.stdout.isatty():
        console = Console()
        widths = {key: max(len(key), *(cell_len(_cell(row.get(key))) for row in rows)) for key in columns if rows}
        console.print(table(rows, fitting(widths, priority, console.width) if priority and rows else columns))
        return
    console = Console(width=_WIDE, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table(rows, columns, plain=True))
    click.echo("".join(line.rstrip() + "\n" for line in captured.get().splitlines()), nl=False)


def fitting(widths: Mapping[str, int], priority: Sequence[str], available: int) -> list[str]:
    """The columns that fit into `available` characters, in the order of `widths`; at least the first of `priority`.

    All if all fit. Otherwise each of `priority` for which there is still room.
    """
    if _total(widths.values()) <= available:
        return list(widths)
    chosen: list[str] = []
    for column in (column for column in priority if column in widths):
        if not chosen or _total([widths[column], *(widths[other] for other in chosen)]) <= available:
            chosen.append(column)
    return [column for column in widths if column in chosen]


def _total(widths: Collection[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def emit_document(data: Any, output: Output) -> None:
    """Prints plain data as JSON or YAML, with unprintable characters escaped."""
    if output == "yaml":
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=_WIDE)
        if not text.replace("\n", "").isprintable() or not _encodable(text):
            text = yaml.safe_dump(data, sort_keys=False, width=_WIDE)
    else:
        text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
        if not _encodable(text):
            text = json.dumps(data, indent=2) + "\n"
        text = re.sub(
            r"[^ -~\n]", lambda match: match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1], text
        )
    click.echo(text, nl=False)


def _encodable(text: str) -> bool:
    """Whether standard output can express the text in its encoding."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def program() -> str:
    """The command as the user typed it, for a message that names the next command."""
    typed = Path(sys.argv[0])
    on_path = shutil.which("stormfold")
    if typed.name != "stormfold" or (on_path and typed.absolute() == Path(on_path).absolute()):
        return "stormfold"
    return shlex.quote(str(typed))


def print_problem(problem: str, hint: str | None) -> None:
    """Prints a problem to standard error, and on a second line what a person can do."""
    click.echo(escape_unprintable(problem), err=True)
    if hint:
        click.echo(f"  -> {escape_unprintable(hint)}", err=True)


def print_names(label: str, names: Sequence[str], limit: int = 5) -> None:
    """Prints the first names after a label to standard error; nothing if there are none."""
    if names:
        more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
        click.echo(escape_unprintable(f"{label}: {', '.join(names[:limit])}{more}"), err=True)


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(_cell, value))
        case _:
            return escape_unprintable(str(value))
