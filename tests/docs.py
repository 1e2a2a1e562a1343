"""What pages in `docs/` take from code stands between `<!-- from code: NAME -->` and `<!-- end -->`.

`python -m tests.docs` writes it anew; a test compares.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from app.config import Config, File, Part, document
from app.settings import Settings, variable

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "tests" / "pure" / "testdata" / "config" / "good_full.yaml"

_BLOCK = re.compile(r"(<!-- from code: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table() -> str:
    """All environment variables."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory or field.default is None else f"`{field.default}`"
        rows.append((f"`{variable(name)}`", default, _meaning(field)))
    return _table(("variable", "default", "meaning"), rows)


def configuration_tables() -> str:
    """The keys of each mapping in the configuration file."""
    return "\n".join(_parts(File, "The file", document(Config())))


def example() -> str:
    """A configuration that the tests read."""
    return f"```yaml\n{EXAMPLE.read_text()}```\n"


BLOCKS = {"settings": settings_table, "configuration": configuration_tables, "example": example}


def made(text: str) -> str:
    """A page with its blocks made anew."""
    return _BLOCK.sub(lambda block: block[1] + BLOCKS[block[2]]() + block[3], text)


def pages() -> list[Path]:
    """The pages that take something from code."""
    return [path for path in sorted((ROOT / "docs").rglob("*.md")) if _BLOCK.search(path.read_text())]


def _parts(part: type[Part], title: str, defaults: dict[str, Any]) -> Iterator[str]:
    """A section for each mapping of the file, from the outside in."""
    rows = []
    below: list[tuple[type[Part], str, dict[str, Any]]] = []
    for name, field in part.model_fields.items():
        default = defaults.get(name)
        kind = next(iter(get_args(field.annotation)), field.annotation)
        if isinstance(kind, type) and issubclass(kind, Part):
            if isinstance(default, list):
                below.append((kind, f"`{name}`, each", default[0] if default else {}))
            else:
                below.append((kind, f"`{name}`", default or {}))
            shown = "below"
        else:
            shown = "required" if field.is_required() else _shown(default)
        rows.append((f"`{name}`", shown, _meaning(field)))
    yield f"## {title}\n\n{_table(('key', 'default', 'meaning'), rows)}"
    for inner, heading, values in below:
        yield from _parts(inner, heading, values)


def _shown(default: Any) -> str:
    match default:
        case None:
            return ""
        case dict():
            return ", ".join(f"`{key}: {value}`" for key, value in default.items())
        case list():
            return f"`[{', '.join(default)}]`"
        case _:
            return f"`{default}`"


def _meaning(field: FieldInfo) -> str:
    assert field.description, "every field has a docstring"
    return " ".join(field.description.split())


def _table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heading, ("---",) * len(heading), *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    for path in pages():
        path.write_text(made(path.read_text()))
