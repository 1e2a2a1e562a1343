"""How the status page is drawn and served: nothing from outside is markup, and many who look cost as one."""

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormfold.group import GroupMeta
from stormfold.health import Health, Problem
from stormfold.manifest import from_manifest
from stormfold.redis.open_groups import OpenGroup, TopGroups
from stormfold.redis.store import Memory
from stormfold.settings import Settings
from stormfold.status.live import Progress, Source, View
from stormfold.text import escape_unprintable
from stormfold.web import page, render
from stormfold.web.render import Sections, render_sections
from stormfold.web.server import Web
from stormfold.worker import Worker
from tests.integration.web.working import NOBODY, get, working
from tests.support.servers import until
from tests.support.storms import manifest

NOW = 1_767_225_600_000
EMPTY = View(at=NOW, worker="host: fold", kafka=Source("kafka:9092"), redis=Source("redis://redis:6379/0"))


def filled(text: str) -> tuple[View, list[Problem]]:
    """A page with that text wherever text from outside can appear."""
    meta = GroupMeta(text, {"alertname": text}, "storms", True, 3, 2)
    storm = from_manifest(manifest(text, pattern=text, severity=text))
    event = {"timestamp": "2026-01-01T00:00:00Z", "level": text, "logger": text, "event": text, "reason": text}
    view = View(
        at=NOW,
        worker=text,
        kafka=Source(text, NOW, text, text),
        redis=Source(text, NOW, text, text),
        horizon=NOW,
        closed_until=NOW,
        groups=TopGroups(1, 1, (OpenGroup(meta, text, 7, 5, 3, False, NOW - 5_000, NOW),)),
        recent=[(storm, False)],
        stages={"intake": {0: Progress(3, NOW)}},
        memory=Memory(used=1, maximum=2, resident=1, fragmentation=1.0, evicted=0, policy="noeviction"),
        events=[event],
    )
    return view, [Problem(text, text, NOW / 1000, text)]


class Read(HTMLParser):
    """What a browser makes of a page: elements with their attributes, and text."""

    def __init__(self, sections: Sections) -> None:
        super().__init__()
        self.elements: list[tuple[str, Any]] = []
        self.text = ""
        for section in sections.values():
            self.feed(section)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "wbr":
            self.elements.append((tag, attrs))

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment", data))

    def handle_decl(self, decl: str) -> None:
        self.elements.append(("declaration", decl))

    def handle_data(self, data: str) -> None:
        self.text += data


PLAIN = Read(render_sections(*filled("plain")))


HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'-alert(1)-'", "</bdi></table><h1>", "<!--",
    "{{ 7 * 7 }}", "{% raw %}", "&lt;b&gt;", "javascript:alert(1)", "\u202egnp.exe", "a\x00\x1b[31m\r\ndata: x\n\n",
)  # fmt: skip


@given(st.text(min_size=1) | st.sampled_from(HOSTILE))
def test_nothing_from_outside_is_markup(text: str) -> None:
    """Whatever a label, a server or a log says is text, whole, and none of it can hide or turn round."""
    found = Read(render_sections(*filled(text)))
    assert found.elements == PLAIN.elements
    assert found.text.count(escape_unprintable(text)) >= PLAIN.text.count("plain")
    assert found.text.replace("\n", "").replace("\xa0", "").isprintable()


def test_names_break_between_words() -> None:
    """A line breaks before a word of a name or before a label, and nowhere else by itself."""
    assert render.breakable('KubeDown{cluster="eu1",a="b"}') == (
        "Kube<wbr>Down<wbr>{cluster=&#34;eu1&#34;,<wbr>a=&#34;b&#34;}"
    )


def test_long_texts() -> None:
    """A label of a megabyte does not become a page of one."""
    sections = render_sections(*filled("x" * 1_000_000))
    assert sum(map(len, sections.values())) < 30_000 and "x" * render.MAX_LENGTH + "…" in sections["forming"]


def test_nothing_known() -> None:
    """Before anything has answered, the page says so, and shows no zero that nobody told."""
    shown = Read(render_sections(EMPTY, [])).text
    assert "No answer yet." in shown and "?" in shown and "None yet" not in shown and "No group is open" not in shown


def test_nothing_there() -> None:
    """Nothing forming is told apart from no worker yet."""
    answered = replace(EMPTY, redis=Source("r", NOW), kafka=Source("k", NOW))
    assert "No worker has started yet." in render_sections(answered, [])["forming"]
    idle = replace(answered, version=1, groups=TopGroups(0, 0, ()))
    assert "No group is open" in render_sections(idle, [])["forming"]
    assert "None yet." in render_sections(answered, [])["recent"]


def test_more_than_is_shown() -> None:
    """What is left out is counted, and a search for the largest that still goes on is no claim."""
    view, _ = filled("A")
    assert view.groups
    shown = view.groups.groups
    assert "and 9 more" in render_sections(replace(view, groups=TopGroups(10, 10, shown)), [])["forming"]
    assert "the 4 oldest" in render_sections(replace(view, groups=TopGroups(10, 4, shown)), [])["forming"]


def test_of_many_partitions_those_with_the_largest_lag_are_shown() -> None:
    shown = render.partitions_behind({"fold": {n: Progress(n % 50, None) for n in range(200)}})
    assert len(shown) == render.MAX_PARTITIONS and all(number % 50 > 40 for number in shown)
    assert shown == sorted(shown)


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [(0, "0.0 s"), (59_940, "59.9 s"), (61_000, "1 min 1 s"), (3_600_000, "1 h 0 min"), (90_000_000, "1 d 1 h")],
)
def test_span(milliseconds: int, shown: str) -> None:
    """Lengths of time in two units."""
    assert render.span(milliseconds) == shown


class Looker:
    """Tells of what is set, and counts who asks."""

    def __init__(self) -> None:
        self.view = EMPTY
        self.looks = 0
        self.open = 0
        self.opened = 0
        self.broken = False

    async def look(self) -> View:
        self.looks += 1
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
            self.open -= 1


class Site:
    """A served page, and what it is made from."""

    def __init__(self, looker: Looker, web: Web, session: aiohttp.ClientSession) -> None:
        self.looker = looker
        self.web = web
        self.session = session

    def get(self, path: str) -> Any:
        return self.session.get(f"http://127.0.0.1:{self.web.port}{path}")


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    # A second takes a twentieth of one.
    monkeypatch.setattr(page, "INTERVAL", 0.05)
    monkeypatch.setattr(page, "LINGER_SECONDS", 0.3)
    looker = Looker()
    web = Web(("127.0.0.1", 0), Health(), looker)
    await web.start()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield Site(looker, web, session)
    await web.end_page()
    await web.stop()


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, str]]:
    """Sections as they come."""
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


async def test_nobody_looks(site: Site) -> None:
    """Nothing is asked before somebody looks, or after; one snapshot's asking serves those that follow at once."""
    async with site.get("/healthz") as answer:
        assert answer.status == 200 and site.looker.opened == 0
    for _ in range(5):
        async with site.get("/") as answer:
            assert answer.status == 200 and "<main>" in await answer.text()
    assert site.looker.opened == 1
    await until(lambda: site.looker.open == 0, 5, "asking ends")
    looks = site.looker.looks
    await asyncio.sleep(0.2)
    assert site.looker.looks == looks


async def test_many_cost_as_one(site: Site) -> None:
    """Ten who look get the same drawings, each made once; when they have gone, asking ends."""
    async with AsyncExitStack() as stack:
        answers = [await stack.enter_async_context(site.get("/events")) for _ in range(10)]
        started = site.looker.looks
        received = await asyncio.gather(*(take(answer, 8) for answer in answers))
        assert sum(map(len, received)) == 80 and site.looker.looks - started <= 20 and site.looker.opened == 1
    await until(lambda: site.looker.open == 0, 5, "asking ends")


async def test_only_what_changes(site: Site) -> None:
    """The first event has every section, later ones what has changed, each whole."""
    async with site.get("/events") as answer:
        first, second = await take(answer, 2)
        assert first.keys() == {
            "moment", "problems", "summary", "forming", "recent", "lag", "memory", "log",
        } and second.keys() == {"moment"}  # fmt: skip
        site.looker.view = filled("Fresh")[0]
        async for event in events(answer):
            if "forming" in event:
                assert event["forming"].startswith('<section id="forming"') and "Fresh" in event["forming"]
                break


async def test_too_many(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are bounded; who comes too late still has the snapshot, and a place when another goes."""
    monkeypatch.setattr(page, "MAX_VIEWERS", 2)
    async with site.get("/events") as one, site.get("/events") as two:
        await asyncio.gather(take(one, 1), take(two, 1))
        async with site.get("/events") as refused, site.get("/") as snapshot:
            assert (refused.status, snapshot.status) == (503, 200)

    async def free() -> bool:
        async with site.get("/events") as answer:
            return bool(answer.status == 200)

    await until(free, 5, "a place is free")


async def test_who_takes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A viewer that stops reading is left after a while, and asking ends."""
    monkeypatch.setattr(page, "WRITE_SECONDS", 0.3)
    monkeypatch.setattr(page, "INTERVAL", 0.005)
    event = filled("x" * 300)[0].events[0]
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", site.web.port))
        client.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")

        def left() -> bool:
            # Every drawing has a log of its own, a large one.
            new = {"moment": time.time_ns(), **event}
            site.looker.view = replace(site.looker.view, events=[new] * 200)
            return site.looker.opened > 0 and site.looker.open == 0

        await until(left, 30, "it is left")


async def test_end(site: Site) -> None:
    """At the worker's end streams end at once, and nothing is asked any more."""
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


async def test_a_defect(site: Site) -> None:
    """A page that can't be drawn says so, and is drawn again when it can be."""
    site.looker.broken = True
    async with site.get("/") as answer:
        assert answer.status == 503 and "log" in await answer.text()
    site.looker.broken = False
    async with site.get("/") as answer:
        assert answer.status == 200


async def test_headers(site: Site) -> None:
    """Nothing may run, load, frame or keep the page that is not its own."""
    async with site.get("/") as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert (
            policy.startswith("default-src 'none';") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        )
        assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Cache-Control"] == "no-store"
        assert "http://" not in (await answer.text()).replace("http://www.w3.org/2000/svg", "")
    async with site.get("/events") as answer:
        assert answer.headers["Cache-Control"] == "no-store"


async def test_without_servers() -> None:
    """The page answers while neither Kafka nor Redis does, says so, and what to look at."""
    async with working(Settings(**NOBODY, http_address="127.0.0.1:0")) as worker:
        await until(
            lambda: says(worker, "Not ready", "no Kafka broker answers at 127.0.0.1:9", "Redis is away"),
            what="both are missed",
        )


async def test_frozen_servers() -> None:
    """Servers that take connections and say nothing are given up; the page does not wait for them."""
    held: list[asyncio.StreamWriter] = []

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        silent = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with working(
            Settings(kafka_bootstrap_servers=silent, redis_url=f"redis://{silent}/0", http_address="127.0.0.1:0")
        ) as worker:
            # Each of them in two sections.
            await until(lambda: says(worker, *["no answer within 5 s"] * 4), what="both are given up")
        for writer in held:
            writer.close()


async def says(worker: Worker, *texts: str) -> bool:
    """Whether the page, which comes in time, says each of these, as often as it is there."""
    async with asyncio.timeout(6):
        answer = await get(worker, "/")
    assert answer.status == 200
    return all(answer.text.count(text) >= number for text, number in Counter(texts).items())
