"""The life of one alert in docs/architecture.md agrees with the code, byte by byte."""

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
    ((keyed, resolved),) = SeriesReader(Config()).parse(record, (), TIME)
    value = encode_alert(keyed.body_at(TIME), TIME, resolved, False, 3, 0, 0)
    assert (len(record), len(value)) == (172, 277)

    shown = block("text")
    octets = re.findall(r"^(?:value| {5})   ((?:[0-9a-f]{2} )+)", shown, re.MULTILINE)
    assert value.startswith(bytes.fromhex("".join(octets)))

    body = msgspec.msgpack.decode(value[HEAD.size :], type=Body)
    assert f"key     {keyed.key.decode()}\n" in shown and f'"{body.group}"' in shown
    meta = msgspec.msgpack.decode(body.meta, type=GroupMeta)
    assert f"key    {aggregate_name(meta, BUCKET, GAP)}\n" in block("text", 2)
