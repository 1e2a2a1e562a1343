"""docs/architecture.md agrees with the code: the life of one alert byte by byte, and the layers."""

import re

import msgspec

from stormfold.config import Config
from stormfold.group import GroupMeta, aggregate_name
from stormfold.keyed_record import HEAD, Body, encode_alert
from stormfold.series import SeriesReader
from tests.docs import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
TIME = 1_796_014_396_865
BUCKET = 1_796_014_380_000
GAP = 60_000


def block(kind: str, number: int = 0) -> str:
    """A code block of the page."""
    return str(re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[number])


def test_the_record_of_the_page_becomes_its_keyed_record() -> None:
    record = block("json").replace("\n ", " ").strip().encode()
    ((keyed, alert),) = SeriesReader(Config()).parse(record, (), TIME)
    value = encode_alert(keyed.body_at(TIME), TIME, alert.resolved, False, 3, 0, 0)
    assert (len(record), len(value)) == (172, 304)

    shown = block("text")
    octets = re.findall(r"^(?:value| {5})   ((?:[0-9a-f]{2} )+)", shown, re.MULTILINE)
    assert value.startswith(bytes.fromhex("".join(octets)))

    body = msgspec.msgpack.decode(value[HEAD.size :], type=Body)
    assert f"key     {keyed.key.decode()}\n" in shown and f'"{body.group}"' in shown
    meta = msgspec.msgpack.decode(body.meta, type=GroupMeta)
    assert f"key    {aggregate_name(meta, BUCKET, GAP)}\n" in block("text", 2)


def test_the_table_of_layers_is_that_of_the_import_linter() -> None:
    (listed,) = re.findall(r"^layers =\n((?: +.+\n)+)", (ROOT / ".importlinter").read_text(), re.MULTILINE)
    *layers, core = [set(re.findall(r"\w+", line)) - {"__main__"} for line in listed.splitlines()]
    rows = [line.split(" | ")[1] for line in PAGE.split("## Layers")[1].splitlines() if line.startswith("| ")][2:]
    *named, pure = [re.findall(r"`(\w+)`", row) for row in rows]
    rank = {name: number for number, layer in enumerate(layers) for name in layer}
    order = [name for row in named for name in row]
    assert set(order) == rank.keys() and set(pure) <= core
    assert [rank[name] for name in order] == sorted(rank[name] for name in order)
