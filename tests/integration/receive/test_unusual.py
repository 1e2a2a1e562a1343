"""`stormfold receive` with a real broker: requests and changes around it that are unusual, and must not be errors."""

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

from stormfold.settings import Settings
from tests.integration.receive.test_receive import receiving
from tests.support.alerts import alert
from tests.support.pipeline import read_topic


async def post_raw(url: str, headers: bytes) -> int:
    """The status of the answer to an alert that is posted with exactly these header lines."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    body = json.dumps(alert()).encode()
    length = f"Content-Length: {len(body)}\r\n".encode()
    writer.write(
        b"POST /alerts HTTP/1.1\r\nHost: receiver\r\nConnection: close\r\n" + length + headers + b"\r\n" + body
    )
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer.split(b" ", 2)[1])


async def test_headers_that_are_not_utf_8_are_kept_or_refused(topics: Settings, tmp_path: Path) -> None:
    """Those of a CloudEvent arrive with the same bytes; credentials are wrong, not an error."""
    tokens = tmp_path / "tokens"
    tokens.write_text("one\n")
    async with receiving(topics, receive_token_file=tokens) as (url, _):
        assert await post_raw(url, b"Authorization: Bearer one\r\nce-source: caf\xe9\r\n") == 200
        assert await post_raw(url, b"Authorization: Bearer caf\xe9\r\n") == 401
    (record,) = await read_topic(topics, topics.alerts_topic)
    assert dict(record.headers)["ce_source"] == b"caf\xe9"
