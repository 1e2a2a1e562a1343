"""The status page in a real browser, of a real worker, while storms form and servers come and go."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, ViewportSize, expect

from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import create
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.process import free_port
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings
from tests.support.alerts import Sent, alert, record
from tests.support.chromium import chromium, needed
from tests.support.pipeline import publish
from tests.support.servers import PARTITIONS, fresh_settings, until
from tests.support.workers import Workers

pytestmark = [needed, pytest.mark.asyncio(loop_scope="module")]

PHONE = ViewportSize(width=360, height=740)
WAIT_MS = 60_000
"""For what a worker has to do first."""
PODS = 12


class Site(NamedTuple):
    """A worker that runs, with a Redis of its own."""

    settings: Settings
    redis: EmbeddedRedis
    workers: Workers

    @property
    def url(self) -> str:
        return f"http://{self.settings.http_address}/"


@pytest.fixture(scope="module")
def site(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Small windows; storms become files."""
    folder = tmp_path_factory.mktemp("site")
    config = folder / "stormfold.yaml"
    config.write_text("windows: {gap: 3s, grace: 1s, slice: 60s}\n")
    redis = EmbeddedRedis(folder / "redis")
    redis.start()
    settings = fresh_settings(kafka, redis).model_copy(
        update={"http_address": f"127.0.0.1:{free_port()}", "sink": f"directory:{folder / 'storms'}"}
    )
    asyncio.run(_create(settings))
    try:
        with Workers(settings, folder, config) as workers:
            workers.start()
            yield Site(settings, redis, workers)
        print(workers.logs())
    finally:
        redis.stop()


async def _create(settings: Settings) -> None:
    async with open_admin(settings) as admin:
        await create(admin, wanted_topics(settings, PARTITIONS, producer_timestamps=True))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


class Watched(NamedTuple):
    """An open page, and what it has complained about: script errors, refusals by policy, failed requests."""

    page: Page
    complaints: list[str]

    def row(self, section: str, name: str) -> Any:
        """The row of a group or storm."""
        return self.page.locator(f"#{section} tbody tr").filter(has_text=name)

    async def alerts(self, section: str, name: str) -> int:
        """The sum of the alerts in rows of that name."""
        cells = await self.row(section, name).locator("td[data-name=Alerts]").all_inner_texts()
        return sum(int(cell.strip().removeprefix("Alerts").replace(",", "")) for cell in cells)


@asynccontextmanager
async def watching(browser: Browser, site: Site, **options: Any) -> AsyncIterator[Watched]:
    """The page in a context with these options, once it answers."""
    context = await browser.new_context(**options)
    try:
        page = await context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(f"{request.url}: {request.failure}"))

        async def there() -> bool:
            host, _, port = site.settings.http_address.rpartition(":")
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                return False
            writer.close()
            return True

        await until(there, what="the worker listens")
        await page.goto(site.url)
        yield Watched(page, complaints)
    finally:
        await context.close()


@asynccontextmanager
async def dripping(settings: Settings, name: str) -> AsyncIterator[list[int]]:
    """Alerts of one group about `PODS` pods, twice a second; yields a list of how many each time."""
    sent: list[int] = []
    # A cancelled producer flushes its alerts, which would be in Kafka and not in the list.
    stopped = asyncio.Event()

    async def drip() -> None:
        while not stopped.is_set():
            now = time.time_ns() // 1_000_000
            await publish(settings, [Sent(now, record(alert(name, pod=f"api-{n}")), n % 3) for n in range(PODS)])
            sent.append(PODS)
            await asyncio.sleep(0.5)

    dripping = asyncio.create_task(drip())
    try:
        yield sent
    finally:
        stopped.set()
        await dripping


async def test_a_storm_grows_without_a_reload_until_it_is_written(site: Site, browser: Browser) -> None:
    async with watching(browser, site) as watched:
        page = watched.page
        await expect(page.locator("#live")).to_have_text("live", timeout=WAIT_MS)
        await page.evaluate("window.loaded = 'once'")
        async with dripping(site.settings, "Crash") as sent:
            row = watched.row("forming", "Crash")
            await expect(row).to_have_count(1, timeout=WAIT_MS)
            before = await watched.alerts("forming", "Crash")

            async def grown() -> bool:
                return await watched.alerts("forming", "Crash") > before

            await until(grown, what="more alerts are shown")
            for column in ("Distinct", "Resources"):
                await expect(row.locator(f"td[data-name={column}]")).to_contain_text(str(PODS))
            await expect(row.locator(".severity")).to_have_text("warning")
        await expect(watched.row("recent", "Crash").first).to_contain_text("written", timeout=WAIT_MS)

        async def all_told() -> bool:
            return await watched.alerts("recent", "Crash") == sum(sent)

        await until(all_told, what="every alert is in a storm")
        await expect(watched.row("forming", "Crash")).to_have_count(0, timeout=WAIT_MS)
        await expect(page.locator("#summary")).to_contain_text("Ready")
        assert await page.evaluate("window.loaded") == "once"
        assert watched.complaints == []


async def test_hostile_labels_are_text_on_every_screen(site: Site, browser: Browser) -> None:
    """Also on a phone, in dark mode, and without scripts."""
    tricks = [
        "<script>window.hacked = 1</script>", '"><img src=x onerror="window.hacked = 1">', "Inv\u202egnp.exe",
        "X" * 2_000, "</table></section><h1>Other page</h1>",
    ]  # fmt: skip
    now = time.time_ns() // 1_000_000
    await publish(
        site.settings,
        [
            Sent(now, record(alert(name, pod=f"p-{n}", severity="<i>worst</i>" if n else "critical")))
            for name in tricks
            for n in range(6)
        ],
    )  # fmt: skip
    async with watching(browser, site) as watched, dripping(site.settings, "Quiet"):
        for name in ("<script>window.hacked = 1</script>", "onerror=", r"Inv\u202egnp.exe", "XXXX", "Other page"):
            await expect(watched.row("recent", name)).to_contain_text("written", timeout=WAIT_MS)
        await expect(watched.row("forming", "Quiet")).to_have_count(1, timeout=WAIT_MS)
        assert await watched.page.evaluate("window.hacked") is None
        assert await watched.page.locator("h1").count() == 1 and await watched.page.locator("main img").count() == 0
        assert watched.complaints == []
        storms = await watched.page.locator("#recent").inner_text()
        schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
        for scheme in schemes:
            await watched.page.emulate_media(color_scheme=scheme)
            assert (await bright(watched.page)) == (scheme == "light")
            found = await Axe().run(watched.page)
            assert found.violations_count == 0, found.generate_report()
        async with watching(browser, site, viewport=PHONE, color_scheme="dark", has_touch=True) as phone:
            await expect(phone.row("forming", "Quiet")).to_have_count(1, timeout=WAIT_MS)
            assert await wider(phone.page) == []
            found = await Axe().run(phone.page)
            assert found.violations_count == 0, found.generate_report()
            assert phone.complaints == []
        async with watching(browser, site, java_script_enabled=False) as still:
            assert await still.page.locator("#live").inner_text() == "snapshot"
            assert await still.page.locator("#recent").inner_text() == storms
            await expect(still.row("forming", "Quiet")).to_have_count(1)
            assert still.complaints == []


async def bright(page: Page) -> bool:
    """Whether the ground is brighter than the text."""
    ground, text = [
        sum(map(int, (await page.evaluate(f"getComputedStyle(document.body).{what}"))[4:-1].split(",")))
        for what in ("backgroundColor", "color")
    ]
    return bool(ground > text)


async def wider(page: Page) -> list[str]:
    """What reaches beyond the screen's right edge."""
    found: list[str] = await page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter((node) => node.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
            .map((node) => node.outerHTML.slice(0, 200))
            .concat(document.documentElement.scrollWidth > innerWidth ? ["the page scrolls"] : [])"""
    )
    return found


async def test_the_page_reports_a_redis_outage_and_its_end(site: Site, browser: Browser) -> None:
    async with watching(browser, site) as watched:
        page = watched.page
        await expect(page.locator("#summary")).to_contain_text("Ready", timeout=WAIT_MS)
        await expect(page.locator("#problems")).to_be_hidden()
        await asyncio.to_thread(site.redis.kill)
        try:
            await expect(page.locator("#problems")).to_contain_text("Redis is not available", timeout=WAIT_MS)
            for section in ("#forming", "#memory"):
                await expect(page.locator(f"{section} .unavailable")).to_contain_text("The data below is from")
            await expect(page.locator("#log")).to_contain_text("Redis is not available", timeout=WAIT_MS)
            await expect(page.locator("#live")).to_have_text("live")
        finally:
            await asyncio.to_thread(site.redis.start)
        await expect(page.locator("#problems")).to_be_hidden(timeout=WAIT_MS)
        await expect(page.locator(".unavailable")).to_have_count(0, timeout=WAIT_MS)
        assert watched.complaints == []


async def test_the_page_reconnects_to_a_restarted_worker(site: Site, browser: Browser, tmp_path: Path) -> None:
    """The worker stops in time although a viewer is connected."""
    here = site.settings.model_copy(update={"http_address": f"127.0.0.1:{free_port()}"})
    with Workers(here, tmp_path, site.workers.config) as workers:
        process = workers.start(stages="close")
        async with watching(browser, site._replace(settings=here)) as watched:
            await expect(watched.page.locator("#live")).to_have_text("live", timeout=WAIT_MS)
            process.terminate()
            assert await asyncio.to_thread(process.wait, 30) == 0
            assert "without a clean shutdown" not in workers.logs()
            await expect(watched.page.locator("#live")).to_have_text("not answering", timeout=WAIT_MS)
            workers.start(stages="close")
            await expect(watched.page.locator("#live")).to_have_text("live", timeout=WAIT_MS)
