"""`stormfold receive` with a real broker: requests and changes around it that are unusual, and must not be errors."""

import asyncio
import json
import re
import ssl
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiokafka.admin import NewPartitions
from structlog.testing import capture_logs

from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import partitions_of
from stormfold.receive import server, split
from stormfold.settings import Settings
from tests.integration.receive.test_receive import receiving
from tests.integration.security.certificates import Authority
from tests.support.alerts import alert
from tests.support.pipeline import read_topic
from tests.support.servers import until


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


async def test_added_partitions_are_no_error(topics: Settings) -> None:
    """`/readyz` finds them before the producer does: no request goes to a partition that it does not know."""
    count = 8

    async def added() -> bool:
        return len(await partitions_of(topics, topics.alerts_topic)) == count

    async with receiving(topics) as (url, client):

        async def post(name: str) -> int:
            async with client.post(f"{url}/alerts", json=alert(name)) as answer:
                return answer.status

        assert await post("Before") == 200
        async with open_admin(topics) as admin:
            await admin.create_partitions({topics.alerts_topic: NewPartitions(count)})
        await until(added, what="Kafka has the partitions")
        async with client.get(f"{url}/readyz") as answer:
            assert answer.status == 200
        assert set(await asyncio.gather(*(post(f"After{number}") for number in range(count)))) == {200}
    assert len(await read_topic(topics, topics.alerts_topic)) == 1 + count


async def test_a_half_renewed_certificate_does_not_break_https(topics: Settings, tmp_path: Path) -> None:
    """While only the certificate is new, connections get the old pair and the log has the reason; then the new pair."""
    authority = Authority(tmp_path / "authority")
    pair, fresh = authority.issue("receive"), authority.issue("receive")
    trusted = ssl.create_default_context(cafile=str(authority.file))
    async with receiving(topics, receive_ssl_certfile=pair.cert, receive_ssl_keyfile=pair.key) as (url, client):
        port = urlsplit(url).port or 0

        async def shown() -> str:
            return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))

        before = await shown()
        with capture_logs() as logs:
            fresh.cert.replace(pair.cert)

            async def refused() -> bool:
                assert await shown() == before
                return any("not reloaded" in entry["event"] for entry in logs)

            await until(refused, what="the log has the reason")
        async with client.post(f"{url}/alerts", json=alert(), ssl=trusted) as answer:
            assert answer.status == 200
        fresh.key.replace(pair.key)
        assert await shown() != before


async def test_an_alert_that_no_record_can_hold_takes_none_of_its_neighbours_with_it(topics: Settings) -> None:
    """413 names it, the log and a metric have it, and both of its neighbours are in the topic."""
    body = [alert("First"), alert("Huge", text="x" * 1_000_000), alert("Last")]

    async def counted(url: str, client: aiohttp.ClientSession) -> int:
        async with client.get(f"{url}/metrics") as answer:
            found = re.search(r"^stormfold_receive_alerts_too_large_total (\d+)", await answer.text(), re.MULTILINE)
        return int(found[1]) if found else 0

    async with receiving(topics) as (url, client):
        before = await counted(url, client)
        with capture_logs() as logs:
            async with client.post(f"{url}/alerts", json=body) as answer:
                assert answer.status == 413 and "alert 2 of 3" in await answer.text()
        assert await counted(url, client) == before + 1
    assert ["alert 2 of 3" in entry["alerts"][0] for entry in logs] == [True]
    found = [json.loads(record.value) for record in await read_topic(topics, topics.alerts_topic)]
    assert [entry["labels"]["alertname"] for record in found for entry in record] == ["First", "Last"]


async def test_records_in_memory_are_limited(topics: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many invalid alerts in a small body: 503 if others take the room at that time, 413 if they can never fit."""
    many = b"[" + b",".join([b"{}"] * 2_000) + b"]"
    async with receiving(topics) as (url, client):

        async def post(data: bytes) -> int:
            async with client.post(f"{url}/alerts", data=data) as answer:
                return answer.status

        with monkeypatch.context() as patch:
            patch.setattr(server, "MAX_HELD_BYTES", 1_000_000)
            assert [await post(data) for data in (many, b"{}", many, b"{}")] == [503, 200, 503, 200]
        with monkeypatch.context() as patch:
            patch.setattr(split, "MAX_RECORDS_BYTES", 1_000_000)
            assert [await post(data) for data in (many, b"{}")] == [413, 200]
    assert len(await read_topic(topics, topics.alerts_topic)) == 3


async def test_a_large_body_waits_for_others_only_for_a_limited_time(
    topics: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets 503 and nothing of it is written; small bodies do not wait, and the other body is written."""
    started, released = threading.Event(), threading.Event()

    def slow_split(*arguments: Any) -> split.Split:
        if len(arguments[0]) > server.IN_THREAD_BYTES:
            started.set()
            released.wait()
        return split.split(*arguments)

    monkeypatch.setattr(server, "split", slow_split)
    monkeypatch.setattr(server, "SPLIT_WAIT_SECONDS", 0.1)
    async with receiving(topics) as (url, client):

        async def post(name: str, size: int) -> int:
            async with client.post(f"{url}/alerts", json=alert(name, text="x" * size)) as answer:
                return answer.status

        try:
            slow = asyncio.create_task(post("Slow", 300_000))
            assert await asyncio.to_thread(started.wait, 30)
            async with asyncio.timeout(30):
                assert await post("Waits", 300_000) == 503
                assert await post("Small", 10) == 200
        finally:
            released.set()
        assert await slow == 200
        assert await post("After", 300_000) == 200
    found = [json.loads(record.value) for record in await read_topic(topics, topics.alerts_topic)]
    assert sorted(entry["labels"]["alertname"] for entry in found) == ["After", "Slow", "Small"]
