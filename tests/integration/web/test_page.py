"""The status page as it is served: snapshots, streams, and servers that do not answer."""

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from stormfold.health import Health
from stormfold.settings import Settings
from stormfold.status.live import View
from stormfold.web import page
from stormfold.web.server import Web
from stormfold.worker import Worker
from tests.integration.web.working import NOBODY, get, working
from tests.support.servers import until
from tests.support.status_page import EMPTY, filled


class Looker:
    """Returns the view that is set, and counts calls."""

    def __init__(self) -> None:
        self.view = EMPTY
        self.looks = 0
        self.open = 0
        self.opened = 0
        self.broken = False
        self.may_look, self.may_close = asyncio.Event(), asyncio.Event()
        self.may_look.set()
        self.may_close.set()
        self.closing = self.closing_breaks = False

    async def look(self) -> View:
        self.looks += 1
        await self.may_look.wait()
        if self.broken:
            raise RuntimeError("broken")
        self.view = replace(self.view, at=self.view.at + 1000)
        return self.view

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator["Looker"]:
        self.open += 1
        self.opened += 1
        try:
            yield self
        finally:
            self.closing = True
            await self.may_close.wait()
            self.open -= 1
            if self.closing_breaks:
                raise RuntimeError("broken")


class Site:
    """A served page and its source of data."""

    def __init__(self, looker: Looker, web: Web, session: aiohttp.ClientSession) -> None:
        self.looker = looker
        self.web = web
        self.session = session

    def get(self, path: str) -> Any:
        return self.session.get(f"http://127.0.0.1:{self.web.port}{path}")


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    # A refresh every 50 ms instead of every second.
    monkeypatch.setattr(page, "INTERVAL", 0.05)
    monkeypatch.setattr(page, "LINGER_SECONDS", 2.0)
    looker = Looker()
    web = Web(("127.0.0.1", 0), Health(), looker)
    await web.start()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield Site(looker, web, session)
    await web.end_page()
    await web.stop()


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, str]]:
    """The events of a stream."""
    assert answer.status == 200 and answer.content_type == "text/event-stream"
    async for line in answer.content:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


async def take(answer: aiohttp.ClientResponse, count: int) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    async for event in events(answer):
        found.append(event)
        if len(found) == count:
            break
    return found


async def test_nothing_is_read_while_nobody_looks(site: Site) -> None:
    """One snapshot reads once; snapshots that follow at once share the answers."""
    async with site.get("/healthz") as answer:
        assert answer.status == 200 and site.looker.opened == 0
    for _ in range(5):
        async with site.get("/") as answer:
            assert answer.status == 200 and "<main>" in await answer.text()
    assert site.looker.opened == 1
    await until(lambda: site.looker.open == 0, what="reading ends")
    looks = site.looker.looks
    await asyncio.sleep(0.2)
    assert site.looker.looks == looks


async def test_ten_viewers_cost_as_much_as_one(site: Site) -> None:
    async with AsyncExitStack() as stack:
        answers = [await stack.enter_async_context(site.get("/events")) for _ in range(10)]
        started = site.looker.looks
        received = await asyncio.gather(*(take(answer, 8) for answer in answers))
        assert sum(map(len, received)) == 80 and site.looker.looks - started <= 20 and site.looker.opened == 1
    await until(lambda: site.looker.open == 0, what="reading ends")


async def test_events_contain_only_changed_sections(site: Site) -> None:
    """The first event has every section; later ones have the changed sections, each complete."""
    async with site.get("/events") as answer:
        first, second = await take(answer, 2)
        assert first.keys() == {
            "moment", "problems", "summary", "forming", "incidents", "recent", "lag", "memory", "log",
        } and second.keys() == {"moment"}  # fmt: skip
        site.looker.view = filled("Fresh")[0]
        async for event in events(answer):
            if "forming" in event:
                assert event["forming"].startswith('<section id="forming"') and "Fresh" in event["forming"]
                break


async def test_streams_are_limited_but_snapshots_are_not(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_VIEWERS", 2)
    async with site.get("/events") as one, site.get("/events") as two:
        await asyncio.gather(take(one, 1), take(two, 1))
        async with site.get("/events") as refused, site.get("/") as snapshot:
            assert (refused.status, snapshot.status) == (503, 200)

    async def free() -> bool:
        async with site.get("/events") as answer:
            return bool(answer.status == 200)

    await until(free, 5, "a stream is free")


async def test_a_viewer_that_reads_nothing_is_disconnected(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "WRITE_SECONDS", 0.3)
    monkeypatch.setattr(page, "INTERVAL", 0.005)
    event = filled("x" * 300)[0].events[0]
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", site.web.port))
        client.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")

        def left() -> bool:
            # Every rendering has a different log, a large one.
            new = {"moment": time.time_ns(), **event}
            site.looker.view = replace(site.looker.view, events=[new] * 200)
            return site.looker.opened > 0 and site.looker.open == 0

        await until(left, 30, "it is disconnected")


async def test_stopping_the_page_ends_its_streams_at_once(site: Site) -> None:
    async with site.get("/events") as answer:
        await take(answer, 1)
        await site.web.end_page()
        assert site.looker.open == 0
        async with asyncio.timeout(5):
            async for _ in events(answer):
                pass
    looks = site.looker.looks
    async with site.get("/events") as answer, asyncio.timeout(5):
        async for _ in events(answer):
            pass
    assert site.looker.looks == looks


async def test_a_failed_rendering_is_reported_and_retried(site: Site) -> None:
    site.looker.broken = True
    async with site.get("/") as answer:
        assert answer.status == 503 and "log" in await answer.text()
    site.looker.broken = False
    async with site.get("/") as answer:
        assert answer.status == 200


@pytest.mark.parametrize("breaks", [False, True])
async def test_a_viewer_that_arrives_while_connections_are_closed_gets_the_page(
    site: Site, monkeypatch: pytest.MonkeyPatch, breaks: bool
) -> None:
    """Also if closing them fails: it has connections of its own."""
    looker = site.looker
    looker.may_close.clear()
    async with site.get("/") as answer:
        assert answer.status == 200
    await until(lambda: looker.closing, what="the connections of the first viewer to be closed")
    monkeypatch.setattr(page, "INTERVAL", 0.0)
    looks, looker.closing_breaks = looker.looks, breaks
    looker.may_look.clear()

    async def status() -> int:
        async with site.get("/") as answer:
            return int(answer.status)

    second = asyncio.create_task(status())
    await until(lambda: looker.looks > looks, what="the second viewer to wait")
    looker.may_close.set()
    await until(lambda: looker.open == 1, what="the connections of the first viewer to be gone")
    looker.closing_breaks = False
    looker.may_look.set()
    assert await second == 200


async def test_the_page_may_load_and_run_nothing_else(site: Site) -> None:
    async with site.get("/") as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert (
            policy.startswith("default-src 'none';") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        )
        assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Cache-Control"] == "no-store"
        assert "http://" not in (await answer.text()).replace("http://www.w3.org/2000/svg", "")
    async with site.get("/events") as answer:
        assert answer.headers["Cache-Control"] == "no-store"


async def test_the_page_works_while_kafka_and_redis_are_away() -> None:
    async with working(Settings(**NOBODY, http_address="127.0.0.1:0")) as worker:
        await until(
            lambda: page_has(worker, "Not ready", "no Kafka broker answers at 127.0.0.1:9", "Redis is not available"),
            what="both are reported",
        )


async def test_the_page_does_not_wait_for_silent_servers() -> None:
    """Servers that accept connections but do not answer are reported, each in two sections."""
    held: list[asyncio.StreamWriter] = []

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        silent = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with working(
            Settings(kafka_bootstrap_servers=silent, redis_url=f"redis://{silent}/0", http_address="127.0.0.1:0")
        ) as worker:
            kafka, redis = f"no Kafka broker answers at {silent} ", f"Timeout reading from {silent}"
            await until(lambda: page_has(worker, kafka, kafka, redis, redis), what="both are reported")
        for writer in held:
            writer.close()


async def page_has(worker: Worker, *texts: str) -> bool:
    """Whether the page responds in time and has each text at least as often as it is given."""
    async with asyncio.timeout(6):
        answer = await get(worker, "/")
    assert answer.status == 200
    return all(answer.text.count(text) >= number for text, number in Counter(texts).items())
