"""Generated parts of `README.md` and of `docs/`: everything between `<!-- from code: NAME -->` and `<!-- end -->`.

`python -m tests.docs` writes them; a test compares them with the code.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import takewhile
from operator import getitem
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any, get_args, get_type_hints

import click
import yaml
from pydantic.fields import FieldInfo

from stormfold.cli import COMMANDS, command
from stormfold.config import Config, document
from stormfold.config.fields import Section
from stormfold.config.schema import ConfigFile
from stormfold.formats import expression
from stormfold.group import GroupMeta
from stormfold.kafka.topics import topics
from stormfold.keyed_record import Body, Marks
from stormfold.redis.layout import Key, Keys, VersionKeys
from stormfold.settings import Settings, variable
from tests.benchmarks.results import load
from tests.docs_fields import bucket_fields, meanings

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "tests" / "unit" / "testdata" / "config" / "good_full.yaml"

_BLOCK = re.compile(r"(<!-- from code: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table() -> str:
    """A row per environment variable."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory or field.default is None else f"`{field.default}`"
        rows.append((f"`{variable(name)}`", default, _meaning(field)))
    return table(("variable", "default", "meaning"), rows)


def configuration_tables() -> str:
    """A section per mapping of the configuration file, with its keys."""
    return "\n".join(_parts(ConfigFile, "The file", document(Config())))


def example() -> str:
    """A configuration file that is also test data."""
    return f"```yaml\n{EXAMPLE.read_text()}```\n"


def mappings_table() -> str:
    """The mappings of the package."""
    documents = yaml.safe_load((ROOT / "app" / "stormfold" / "formats" / "mappings.yaml").read_text())
    rows = []
    for one in documents:
        status = one.get("status", {})
        words = [", ".join(status.get(key, ())) for key in ("firing", "resolved")] if status else ["always", ""]
        labels = ", ".join(f"`{name}`" for name in one.get("labels", {})) or "of the record inside"
        rows.append((f"`{one['name']}`", one["producer"], labels, *(words if "labels" in one else ("", ""))))
    return table(("mapping", "producer", "labels", "fires", "is resolved"), rows)


def mapping_functions() -> str:
    """The functions of expressions beyond JMESPath's own."""
    return table(
        ("function", "result"),
        [
            (f"`{name.removeprefix('_func_')}`", inspect.cleandoc(member.__doc__))
            for name, member in vars(expression.Functions).items()
            if name.startswith("_func_") and member.__doc__
        ],
    )


def redis_keys() -> str:
    """A row per Redis key, from its property."""
    rows = []
    for owner, prefix in ((Keys, ""), (VersionKeys, "<version>:")):
        keys = Keys("<prefix>") if owner is Keys else VersionKeys("", Key(""), "")
        for name, member in vars(owner).items():
            if isinstance(member, property) and name != "root":
                key = getattr(keys, name).removeprefix("<prefix>:{0}:")
                rows.append((f"`{prefix}{key}`", " ".join(str(member.__doc__).split())))
    return table(("key", "type, time to live, content"), rows)


def redis_fields() -> str:
    """A row per value in a bucket."""
    return table(("field", "bytes", "content"), bucket_fields())


def redis_sizes() -> str:
    """The measured size of open storms."""
    found = load()
    assert found.claim
    rows = [
        (f"an open storm of {form.resources:,} alerts, each about a resource of its own", f"{form.bytes_each:,.0f}")
        for form in found.claim.forms
        if form.form.startswith("C")
    ]
    if found.million:
        each = (found.million.used - found.million.empty) / found.million.alerts
        rows.append((f"each of {found.million.alerts:,} alerts in {found.million.groups:,} groups", f"{each:,.0f}"))
    return table(("what", "bytes in Redis"), rows)


def figures() -> str:
    """The three measurements that the README quotes."""
    found = load()
    assert found.claim and found.throughput and found.latency
    size = {form.form[0]: form.bytes_each / 1e3 for form in found.claim.forms if form.resources == 1_000}
    rate = median(taken.count / taken.cpu.worker for taken in found.throughput.pipeline["20,000 series"])
    (late,) = (median(delay.present_p99) for delay in found.latency.delays if delay.load == 0.5)
    text = (
        f"An open storm with 1,000 affected resources takes {size['C']:.0f} KB of Redis, and {size['A']:.0f} KB if the"
        f" whole resource is kept there. A worker processes {round(rate, -3):,.0f} alerts per CPU-second. At half of"
        f" its capacity, 99 % of all storms are written within {late:.2g} s after they are final."
    )
    return fill(text, 120, break_on_hyphens=False) + "\n"


def redis_scripts() -> str:
    """The header comment of each script, which is its contract."""
    scripts = sorted((ROOT / "app" / "stormfold" / "redis").glob("*.lua"))
    heads = [list(takewhile(lambda line: line.startswith("--"), path.read_text().splitlines())) for path in scripts]
    return "\n".join(
        f"### {path.name}\n\n```text\n" + "\n".join(line.removeprefix("--")[1:] for line in head) + "\n```\n"
        for path, head in zip(scripts, heads, strict=True)
    )


def topics_table() -> str:
    """A row per topic, with the settings that it needs."""
    rows = []
    for topic in topics(Settings()):
        needs = [f"`{s.name}={s.value}`" + (f": {s.reason}" if s.reason else "") for s in topic.settings]
        rows.append((f"`{topic.name}`", topic.purpose, "<br>".join(needs)))
    return table(("topic", "holds", "settings"), rows)


def records() -> str:
    """The msgpack arrays in records of `alerts-by-fingerprint`."""
    return "\n".join(
        f"### {struct.__name__}\n\n{inspect.getdoc(struct)}\n\n"
        + table(("place", "field", "type", "meaning"), list(_places(struct)))
        for struct in (Body, GroupMeta, Marks)
    )


def commands() -> str:
    """The output of `--help` of every command."""
    group = click.Context(command, info_name="stormfold", **command.context_settings)
    sections = []
    for name in COMMANDS:
        called = command.get_command(group, name)
        assert called
        with click.Context(called, parent=group, info_name=name) as context:
            context.max_content_width = 118
            context.terminal_width = 118
            sections.append(f"## {name}\n\n```text\n{called.get_help(context)}\n```\n")
    return "\n".join(sections)


def storm_fields() -> str:
    """Every field of an AlertStorm, with its type and its limits."""
    return _resource_fields("AlertStorm")


def incident_fields() -> str:
    """Every field of an AlertIncident, with its type and its limits."""
    return _resource_fields("AlertIncident")


def _resource_fields(kind: str) -> str:
    definitions = [found["spec"] for found in yaml.safe_load_all((ROOT / "k8s" / "crd.yaml").read_text())]
    (version,) = next(found["versions"] for found in definitions if found["names"]["kind"] == kind)
    fields = version["schema"]["openAPIV3Schema"]["properties"]
    return "\n".join(
        f"## {part}\n\n{fields[part]['description']}\n\n"
        + table(("field", "type", "meaning"), list(_fields(fields[part], "")))
        for part in ("spec", "status")
    )


def chart_values() -> str:
    """A row per value of the Helm chart that has a comment."""
    text = (ROOT / "k8s" / "chart" / "values.yaml").read_text()
    values = yaml.safe_load(text)
    rows = []
    for comment, indent, name in re.findall(r"((?:^ *# .*\n)+)( *)(\w+):", text, re.MULTILINE):
        groups = re.findall(r"^(\w+):$", text[: text.index(comment)], re.MULTILINE) if indent else []
        path = [*groups[-1:], name]
        value = reduce(getitem, path, values)
        default = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
        meaning = " ".join(line.strip().removeprefix("# ") for line in comment.splitlines())
        rows.append((f"`{'.'.join(path)}`", "" if value in ("", [], {}) else f"`{default}`", meaning))
    return table(("value", "default", "meaning"), rows)


BLOCKS = {
    "chart_values": chart_values,
    "commands": commands,
    "storm_fields": storm_fields,
    "incident_fields": incident_fields,
    "redis_keys": redis_keys,
    "redis_fields": redis_fields,
    "figures": figures,
    "redis_sizes": redis_sizes,
    "redis_scripts": redis_scripts,
    "topics": topics_table,
    "records": records,
    "settings": settings_table,
    "configuration": configuration_tables,
    "example": example,
    "mappings": mappings_table,
    "mapping_functions": mapping_functions,
}


def made(text: str) -> str:
    """The page with its blocks generated again."""
    return _BLOCK.sub(lambda block: block[1] + BLOCKS[block[2]]() + block[3], text)


def pages() -> list[Path]:
    """The pages that have generated blocks."""
    return [
        path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if _BLOCK.search(path.read_text())
    ]


def _parts(part: type[Section], title: str, defaults: dict[str, Any]) -> Iterator[str]:
    """A section per mapping of the file, outer mappings first."""
    rows = []
    below: list[tuple[type[Section], str, dict[str, Any]]] = []
    for name, field in part.model_fields.items():
        default = defaults.get(name)
        kind = next(iter(get_args(field.annotation)), field.annotation)
        if isinstance(kind, type) and issubclass(kind, Section):
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


def _places(struct: type[Any]) -> Iterator[tuple[str, str, str, str]]:
    """A row per field of an array."""
    found = meanings(struct)
    for place, (name, kind) in enumerate(get_type_hints(struct).items()):
        shown = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
        yield str(place), f"`{name}`", shown, found.get(name, "")


def _fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    """A row per field of the schema, outer fields first."""
    for name, field in schema["properties"].items():
        inner, place = field, f"{path}{name}"
        if field["type"] == "array":
            inner, place = field["items"], f"{place}[]"
        yield f"`{place}`", _type(field), " ".join(field["description"].split())
        if "properties" in inner:
            yield from _fields(inner, f"{place}.")


def _type(field: dict[str, Any]) -> str:
    match field:
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"format": "date-time"}:
            return "time (RFC 3339)"
        case {"type": "array", "maxItems": most}:
            return f"list, at most {most:,}"
        case {"additionalProperties": values, "maxProperties": most}:
            return f"map of strings, at most {most:,} of {values['maxLength']:,} characters"
        case {"type": "string", "maxLength": most}:
            return f"string, at most {most:,} characters"
        case _:
            return str(field["type"])


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
