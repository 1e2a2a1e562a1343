"""What pages in `docs/` take from code stands between `<!-- from code: NAME -->` and `<!-- end -->`.

`python -m tests.docs` writes it anew; a test compares.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from app.config import Config, File, Part, document
from app.kafka.topics import topics
from app.settings import Settings, variable
from app.store.keys import EpochKeys, Keys

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "tests" / "pure" / "testdata" / "config" / "good_full.yaml"

_BLOCK = re.compile(r"(<!-- from code: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table() -> str:
    """All environment variables."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory or field.default is None else f"`{field.default}`"
        rows.append((f"`{variable(name)}`", default, _meaning(field)))
    return table(("variable", "default", "meaning"), rows)


def configuration_tables() -> str:
    """The keys of each mapping in the configuration file."""
    return "\n".join(_parts(File, "The file", document(Config())))


def example() -> str:
    """A configuration that the tests read."""
    return f"```yaml\n{EXAMPLE.read_text()}```\n"


def redis_keys() -> str:
    """Every key name, from its property."""
    rows = []
    for owner, prefix in ((Keys, ""), (EpochKeys, "<epoch>:")):
        keys = Keys("<prefix>") if owner is Keys else EpochKeys("")
        for name, member in vars(owner).items():
            if isinstance(member, property) and name != "root":
                key = getattr(keys, name).removeprefix("<prefix>:{0}:")
                rows.append((f"`{prefix}{key}`", " ".join(str(member.__doc__).split())))
    return table(("key", "type, time to live, content"), rows)


def redis_scripts() -> str:
    """The contract at the head of every script."""
    scripts = sorted((ROOT / "app" / "store").glob("*.lua"))
    heads = [list(takewhile(lambda line: line.startswith("--"), path.read_text().splitlines())) for path in scripts]
    return "\n".join(
        f"### {path.name}\n\n```\n" + "\n".join(line.removeprefix("--")[1:] for line in head) + "\n```\n"
        for path, head in zip(scripts, heads, strict=True)
    )


def topics_table() -> str:
    """The five topics with the settings they need."""
    rows = []
    for topic in topics(Settings()):
        needs = [f"`{s.name}={s.value}`" + (f": {s.why}" if s.why else "") for s in topic.settings]
        rows.append((f"`{topic.name}`", topic.purpose, "<br>".join(needs)))
    return table(("topic", "holds", "settings"), rows)


BLOCKS = {
    "redis_keys": redis_keys,
    "redis_scripts": redis_scripts,
    "topics": topics_table,
    "settings": settings_table,
    "configuration": configuration_tables,
    "example": example,
}


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
    yield f"## {title}\n\n{table(('key', 'default', 'meaning'), rows)}"
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


def table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [heading, ("---",) * len(heading), *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    for path in pages():
        path.write_text(made(path.read_text()))
