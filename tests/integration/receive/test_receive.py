"""`stormfold receive` with a real broker: what it writes, what it answers, and what it never does."""

import asyncio
import gzip
import json
import os
import signal
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stormfold.config import Config
from stormfold.kafka.client import REQUEST_TIMEOUT_MS, open_admin
from stormfold.kafka.topics import create
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.local.kafka import EmbeddedKafka
from stormfold.receive import server
from stormfold.receive.server import Receiver
from stormfold.settings import Settings
from tests.integration.security.certificates import Authority
from tests.support.alerts import alert
from tests.support.pipeline import read_topic
from tests.support.servers import until

BAD: dict[str, Any] = {"labels": {"alertname": 5}}


@asynccontextmanager
async def receiving(settings: Settings, **changes: Any) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """A receiver on a free port; its URL and a client."""
    receiver = Receiver(settings.model_copy(update={"receive_address": "127.0.0.1:0"} | changes), Config())
    await receiver.start()
    scheme = "https" if "receive_ssl_certfile" in changes else "http"
    try:
        async with aiohttp.ClientSession() as client:
            yield f"{scheme}://127.0.0.1:{receiver.port}", client
    finally:
        await receiver.stop()


def webhook(*alerts: dict[str, Any]) -> dict[str, Any]:
    """Alertmanager's webhook body, version 4."""
    return {"version": "4", "status": "firing", "receiver": "stormfold", "groupLabels": {}, "alerts": list(alerts)}


async def contents(settings: Settings) -> list[Any]:
    """The values of `alerts`, in the order of their timestamps."""
    found = sorted(await read_topic(settings, settings.alerts_topic), key=lambda record: record.timestamp)
    return [json.loads(record.value) for record in found]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedKafka]:
    """A broker of the test's own, to be killed and frozen."""
    server = EmbeddedKafka(tmp_path / "kafka")
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.stop)


@pytest.fixture
async def own(settings: Settings, broker: EmbeddedKafka) -> Settings:
    """Settings with topics in that broker and a short delivery timeout."""
    changes = {"kafka_bootstrap_servers": broker.bootstrap, "delivery_timeout": 3.0}
    own = settings.model_copy(update=changes)
    async with open_admin(own) as admin:
        await create(admin, wanted_topics(own, 2))
    return own


@dataclass
class Sender:
    """Posts bodies and notes the answers."""

    url: str
    client: aiohttp.ClientSession

    async def post(self, body: Any) -> int:
        """The status of the answer."""
        async with self.client.post(f"{self.url}/alerts", json=body) as answer:
            return answer.status

    async def recovered(self) -> bool:
        """Whether alerts are accepted again."""
        return await self.post(alert("After")) == 200


async def test_bodies_arrive_as_they_were_sent(topics: Settings) -> None:
    """A webhook, a ruler's list and a plain alert: 200 means that Kafka has them."""
    bodies = [webhook(alert("A"), alert("B")), [alert("C")], alert("D")]
    async with receiving(topics) as (url, client):
        for path, body in zip(("/alerts", "/api/v2/alerts", "/alerts"), bodies, strict=True):
            async with client.post(url + path, json=body) as answer:
                assert (answer.status, await answer.json()) == (200, {"records": 1, "invalid": 0})
            await asyncio.sleep(0.01)
        assert await contents(topics) == bodies
        for path, words in (("/healthz", "healthy"), ("/readyz", "ready"), ("/metrics", "stormfold_receive_requests")):
            async with client.get(url + path) as answer:
                assert answer.status == 200 and words in await answer.text()


async def test_a_webhook_of_2000_alerts_is_split_and_complete(topics: Settings) -> None:
    """3 MB become records of at most 256 KiB in one partition, all alerts in order; gzip makes no difference."""
    alerts = [alert("Down", pod=f"p{number}", text="x" * 1_400) for number in range(2_000)]
    body = json.dumps(webhook(*alerts)).encode()
    assert len(body) > 3_000_000
    async with receiving(topics) as (url, client):
        for data, headers in ((body, {}), (gzip.compress(body), {"Content-Encoding": "gzip"})):
            async with client.post(f"{url}/alerts", data=data, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
    found = await read_topic(topics, topics.alerts_topic)
    assert max(len(record.value) for record in found) <= 256 * 1024
    partitions = {record.partition for record in found}
    for partition in partitions:
        records = [json.loads(record.value) for record in found if record.partition == partition]
        assert [entry for record in records for entry in record["alerts"]] == alerts
    assert len(partitions) == 2


async def test_one_bad_alert_takes_none_of_its_neighbours_with_it(topics: Settings) -> None:
    """It gets a record of its own, which intake sends to the dead-letter queue."""
    alerts = [alert("Down", pod=f"p{number}") for number in range(255)]
    body = webhook(*alerts[:100], BAD, *alerts[100:])
    async with receiving(topics) as (url, client), client.post(f"{url}/alerts", json=body) as answer:
        assert (answer.status, await answer.json()) == (200, {"records": 3, "invalid": 1})
    found = [record["alerts"] for record in await contents(topics)]
    assert sorted(map(len, found)) == [1, 100, 155] and [BAD] in found


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"", {}, 400),
        (b"not gzip", {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(b'["' + b"x" * 33_000_000 + b'"]'), {"Content-Encoding": "gzip"}, 413),
        (json.dumps([alert("x" * 1_000_000)]).encode(), {}, 413),
        (b"[]", {}, 200),
    ],
)
async def test_bodies_that_cannot_be_taken_write_nothing(
    topics: Settings, caplog: pytest.LogCaptureFixture, data: bytes, headers: dict[str, str], status: int
) -> None:
    """The status shows whether to repeat the request, the text has the reason."""
    async with receiving(topics) as (url, client), client.post(f"{url}/alerts", data=data, headers=headers) as answer:
        assert answer.status == status
        assert (await answer.text()).strip()
    assert "Unhandled exception" not in caplog.text
    assert await contents(topics) == []


async def test_only_cloudevents_headers_pass(topics: Settings) -> None:
    """Their values are decoded. Nobody outside can set stormfold's own headers."""
    headers = {
        "ce-specversion": "1.0", "ce-id": "1", "ce-type": "alert", "ce-source": "caf%C3%A9",
        "stormfold-origin": "alerts-0-0", "X-Other": "1", "Content-Type": "application/json",
    }  # fmt: skip
    async with receiving(topics) as (url, client):
        async with client.post(f"{url}/alerts", data=json.dumps(alert()), headers=headers) as answer:
            assert answer.status == 200
        async with client.post(f"{url}/alerts", json=alert()) as answer:
            assert answer.status == 200
    found = sorted(await read_topic(topics, topics.alerts_topic), key=lambda record: record.timestamp)
    assert dict(found[0].headers) == {
        "ce_specversion": b"1.0", "ce_id": b"1", "ce_type": b"alert", "ce_source": "café".encode(),
        "content-type": b"application/json",
    }  # fmt: skip
    assert found[1].headers == ()


async def test_2000_requests_at_once_are_all_written(topics: Settings) -> None:
    """Every answer is 200, and every alert is there once."""
    async with receiving(topics) as (url, client):

        async def post(number: int) -> int:
            async with client.post(f"{url}/alerts", json=alert("Down", pod=f"p{number}")) as answer:
                return answer.status

        assert set(await asyncio.gather(*map(post, range(2_000)))) == {200}
    pods = [found["labels"]["pod"] for found in await contents(topics)]
    assert sorted(pods) == sorted(f"p{number}" for number in range(2_000))


async def test_without_kafka_the_answer_is_503_in_time_and_nothing_comes_later(
    own: Settings, broker: EmbeddedKafka
) -> None:
    """The broker is killed: 503 within the delivery timeout, and nothing of it is written when it is back."""
    async with receiving(own) as (url, client):
        sender = Sender(url, client)
        assert await sender.post(alert("Before")) == 200
        await asyncio.to_thread(broker.kill)
        started = time.monotonic()
        assert set(await asyncio.gather(*(sender.post(alert("During")) for _ in range(20)))) == {503}
        assert time.monotonic() - started < REQUEST_TIMEOUT_MS / 1000 - 1
        async with client.get(f"{url}/readyz") as answer:
            assert answer.status == 503 and "Kafka" in await answer.text()
        await asyncio.to_thread(broker.start)
        await until(sender.recovered, 30, "Kafka takes alerts again")
    names = [found["labels"]["alertname"] for found in await contents(own)]
    assert names.count("Before") == 1 and "During" not in names and "After" in names


@pytest.mark.parametrize("small", [0, 50])
async def test_a_request_to_a_frozen_broker_is_written_once_at_most(
    own: Settings, broker: EmbeddedKafka, small: int
) -> None:
    """What was on its way when the broker froze may be written; nothing else is sent after the answer.

    The answer waits for nothing that the broker still does: its time for a request is longer. One body is larger than
    what a connection takes at once.
    """
    large = webhook(*[alert("Large", pod=f"p{number}", text="x" * 1_400) for number in range(2_000)])
    async with receiving(own) as (url, client):
        sender = Sender(url, client)
        assert await sender.post(alert("Before")) == 200
        assert broker.pid
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            during = [sender.post(alert(f"During{n}")) for n in range(small)]
            assert set(await asyncio.gather(*during, sender.post(large))) == {503}
            assert time.monotonic() - started < REQUEST_TIMEOUT_MS / 1000 - 1
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        await until(sender.recovered, 30, "Kafka takes alerts again")
    single = [found for found in await contents(own) if "labels" in found]
    names = Counter(found["labels"]["alertname"] for found in single)
    assert names["Before"] == 1 and all(names[f"During{n}"] <= 1 for n in range(small))


async def test_a_slow_sender_is_answered_and_holds_up_nobody(topics: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 after the limit, as Alertmanager repeats nothing else at once; others are served in the time between."""
    monkeypatch.setattr(server, "READ_SECONDS", 1.0)

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b" "
            await asyncio.sleep(0.1)

    async with receiving(topics) as (url, client):
        slow = asyncio.create_task(client.post(f"{url}/alerts", data=drip()).__aenter__())
        async with client.post(f"{url}/alerts", json=alert()) as answer:
            assert answer.status == 200
        assert (await slow).status == 503


async def test_bodies_in_memory_are_limited(topics: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a request gets 503, and afterwards there is room again."""
    monkeypatch.setattr(server, "MAX_HELD_BYTES", 100_000)
    async with receiving(topics) as (url, client):
        for size, status in ((200_000, 503), (10, 200), (200_000, 503), (10, 200)):
            async with client.post(f"{url}/alerts", json=alert(text="x" * size)) as answer:
                assert answer.status == status


async def test_tokens_and_users_are_checked_and_can_change(topics: Settings, tmp_path: Path) -> None:
    """Probes need none. A changed file counts from the next request on, a missing one changes nothing."""
    tokens, users = tmp_path / "tokens", tmp_path / "users"
    tokens.write_text("one\n")
    users.write_text("prometheus:pass\n")
    changes = {"receive_token_file": tokens, "receive_users_file": users}
    async with receiving(topics, **changes) as (url, client):

        async def status(authorization: str | None, path: str = "/alerts") -> int:
            headers = {} if authorization is None else {"Authorization": authorization}
            method = "POST" if path == "/alerts" else "GET"
            async with client.request(method, url + path, json=alert(), headers=headers) as answer:
                return answer.status

        assert [await status(value) for value in (None, "Bearer two", "Basic x", "Bearer")] == [401] * 4
        assert await status("Bearer one") == 200
        assert await status(aiohttp.encode_basic_auth("prometheus", "pass")) == 200
        assert [await status(None, path) for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 401]
        tokens.write_text("two\n")
        assert [await status(f"Bearer {value}") for value in ("one", "two")] == [401, 200]
        tokens.unlink()
        assert await status("Bearer two") == 200
    assert len(await contents(topics)) == 4


async def test_https_with_a_certificate_that_is_renewed(topics: Settings, tmp_path: Path) -> None:
    """The new certificate is shown without a restart; plain HTTP gets no answer."""
    authority = Authority(tmp_path / "authority")
    pair = authority.issue("receive")
    trusted = ssl.create_default_context(cafile=str(authority.file))
    changes = {"receive_ssl_certfile": pair.cert, "receive_ssl_keyfile": pair.key}
    async with receiving(topics, **changes) as (url, client):
        async with client.post(f"{url}/alerts", json=alert(), ssl=trusted) as answer:
            assert answer.status == 200
        with pytest.raises(aiohttp.ClientError):
            await client.post(url.replace("https", "http") + "/alerts", json=alert())
        port = int(url.rsplit(":", 1)[1])

        async def shown() -> bytes:
            certificate = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
            return certificate.encode()

        before = await shown()
        pair.become(authority.issue("receive"))

        async def renewed() -> bool:
            return await shown() != before

        await until(renewed, 10, "the new certificate is shown")
        async with client.post(f"{url}/alerts", json=alert(), ssl=trusted) as answer:
            assert answer.status == 200
