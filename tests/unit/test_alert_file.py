"""Files of alerts: what becomes a record, and which line an error names."""

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormfold.cli.alert_file import MAX_ALERTS, MAX_BYTES, Record, read
from stormfold.errors import ActionRequired


def _read(content: bytes) -> list[Record]:
    return list(read(io.BytesIO(content), "file"))


@pytest.mark.parametrize(
    "content, records",
    [
        (b'{"a":1}', [(1, b'{"a":1}')]),
        (b'{"a":1}\n{"b":2}\n', [(1, b'{"a":1}'), (2, b'{"b":2}')]),
        (b'\n\r\n {"a":1}\r\n\n{"b":2}', [(3, b'{"a":1}'), (5, b'{"b":2}')]),
        (b'\xef\xbb\xbf{"a":1}', [(1, b'{"a":1}')]),
        (b'\n{\n  "a": 1\n}\n', [(2, b'{\n  "a": 1\n}\n')]),
        (b'[\n  {"a": 1},\n  {"b": [2]}\n]', [(1, b'[{"a": 1},{"b": [2]}]')]),
        (b'[{"a":1}]\n[{"b":2}]', [(1, b'[{"a":1}]'), (2, b'[{"b":2}]')]),
        (b"[]", [(1, b"[]")]),
    ],
)
def test_a_document_or_a_line_is_a_record(content: bytes, records: list[Record]) -> None:
    """One document over several lines, or one on each line; a record knows its line."""
    assert _read(content) == records


@given(st.lists(st.integers(0, MAX_BYTES // 4), max_size=20), st.integers(1, 3 * MAX_ALERTS))
def test_a_long_list_is_split_in_order(sizes: list[int], small: int) -> None:
    """Every alert is in exactly one part, in order, and no part is larger than a record should be."""
    alerts = [{"text": "x" * size} for size in sizes] + [{"number": number} for number in range(small)]
    parts = [json.loads(record.value) for record in _read(json.dumps(alerts).encode())]
    assert [alert for part in parts for alert in part] == alerts
    assert all(len(part) <= MAX_ALERTS for part in parts)
    assert all(len(json.dumps(part, separators=(",", ":"))) <= MAX_BYTES + len(sizes) + MAX_ALERTS for part in parts)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "file is empty"),
        (b"\n \n", "file is empty"),
        (b"alerts", "file:1: not JSON"),
        (b'{"a":1}\n\n{"b":\n', "file:3: not JSON"),
        (b'{\n"a":1,\n}', "file:2: not JSON"),
        (b'{"a":"\xff"}', "file:1: not JSON"),
        (b'{"a":', "file:1: not JSON"),
        (b'{"a":NaN}', "file:1: not JSON"),
        (b"[" * 100_000, "file:1: not JSON"),
    ],
)
def test_a_document_that_cannot_be_read_is_reported_with_its_line(content: bytes, message: str) -> None:
    """The error names the file and the line."""
    with pytest.raises(ActionRequired, match=message):
        _read(content)


def test_a_document_that_is_nested_too_deeply_is_reported_with_its_line() -> None:
    """From CPython 3.12 on, this depth is within the limit."""
    content = b"{}\n" + b"[" * 1_010 + b"]" * 1_010
    if sys.version_info < (3, 12):
        with pytest.raises(ActionRequired, match="file:2: nested too deeply"):
            _read(content)
    else:
        assert len(_read(content)) == 2
