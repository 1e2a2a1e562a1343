"""Files of alerts, as commands take them: one JSON document, or one on each line. Long lists are split."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import msgspec
import orjson

from stormfold.decoding import Poison, decode_json
from stormfold.errors import ActionRequired

MAX_ALERTS = 500
"""Alerts in a record that is made from a longer list."""
MAX_BYTES = 512 * 1024
"""Bytes of such a record: well below the limit of any topic."""

_list = msgspec.json.Decoder(list[msgspec.Raw])


class Record(NamedTuple):
    """A record to publish."""

    line: int
    """Number of the line where it begins."""
    value: bytes


def read(file: BinaryIO, name: str) -> Iterator[Record]:
    """The records of a file.

    Raises `ActionRequired` if the file is empty, or with the line that is not JSON or has too many levels.
    """
    numbered = ((number, line.removeprefix(b"\xef\xbb\xbf").strip()) for number, line in enumerate(file, 1))
    lines = ((number, line) for number, line in numbered if line)
    first, begin = next(lines, (0, b""))
    if not first:
        raise ActionRequired(f"{name} is empty")
    try:
        orjson.loads(begin)
    except orjson.JSONDecodeError:
        # The line is not a document of its own: it begins a longer one.
        yield from _split(Record(first, b"\n".join(filter(None, (begin, file.read())))), name)
        return
    yield from _split(Record(first, begin), name)
    for number, line in lines:
        yield from _split(Record(number, line), name)


def _split(record: Record, name: str) -> Iterator[Record]:
    try:
        orjson.loads(record.value)
    except orjson.JSONDecodeError as error:
        raise ActionRequired(f"{name}:{record.line + error.lineno - 1}: not JSON: {error.msg}") from error
    if not record.value.startswith(b"["):
        yield record
        return
    try:
        alerts = decode_json(_list, record.value)
    except Poison as error:
        raise ActionRequired(f"{name}:{record.line}: {error}") from error
    part: list[msgspec.Raw] = []
    size = 0
    for alert in alerts:
        length = len(memoryview(alert))
        if part and (len(part) == MAX_ALERTS or size + length > MAX_BYTES):
            yield Record(record.line, msgspec.json.encode(part))
            part, size = [], 0
        part.append(alert)
        size += length + 1
    yield Record(record.line, msgspec.json.encode(part))
