"""`python -m tests.integration.web.screenshot` takes the docs' picture of the status page during an incident."""

import asyncio
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
from playwright.async_api import ViewportSize

from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import create, topics
from stormfold.local.demo import CONFIG
from stormfold.local.incident import SCRIPT, incident
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.process import free_port
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings
from tests.support.alerts import Sent
from tests.support.chromium import chromium
from tests.support.pipeline import publish
from tests.support.servers import until
from tests.support.workers import Workers

PICTURE = Path(__file__).parents[3] / "docs" / "status-page.png"
PARTITIONS = 4
SECONDS_PER_SECOND = 15
"""The incident takes seconds; this factor makes minutes of them."""
UNTIL = 2.1
"""Seconds of the incident to publish: later there is more than fits into a picture."""
EARLIER = 20 * 60
"""Seconds since the start of an earlier incident that is over."""
WRITTEN = 2
"""Storms that are written in the picture; the others wait."""
SIZE = ViewportSize(width=1420, height=1000)


def published(seed: int, cluster: str, start: float) -> Iterator[Sent]:
    """The records of the first part of an incident in that cluster, which began `start` seconds ago."""
    begin = time.time() - start
    for number, record in enumerate(incident(seed, round(begin * 1000))):
        if record.at < UNTIL:
            value = record.value.replace(f'"{SCRIPT.cluster}"'.encode(), f'"{cluster}"'.encode())
            yield Sent(
                round((begin + record.at * SECONDS_PER_SECOND) * 1000),
                value,
                number % PARTITIONS,
                headers=record.headers,
            )


async def take(folder: Path) -> None:
    """Starts everything, publishes two incidents, and takes the picture in the middle of the second."""
    kafka, redis = EmbeddedKafka(folder / "kafka"), EmbeddedRedis(folder / "redis")
    kafka.start()
    redis.start()
    try:
        settings = Settings(
            kafka_bootstrap_servers=kafka.bootstrap,
            redis_url=redis.url,
            http_address=f"127.0.0.1:{free_port()}",
            sink=f"directory:{folder / 'storms'}",
        )
        # The routes of the demo with the default windows.
        config = folder / "stormfold.yaml"
        config.write_text(re.sub(r"(?m)^#.*\nwindows:.*\n", "", CONFIG))
        async with open_admin(settings) as admin:
            await create(admin, topics(settings, PARTITIONS, producer_timestamps=True))
        await publish(settings, published(1, "eu2", EARLIER))
        await publish(settings, published(2, SCRIPT.cluster, UNTIL * SECONDS_PER_SECOND))
        with Workers(settings, folder, config) as workers:
            workers.start(stages="intake,fold,close")
            await until(lambda: _shows(settings, 0), 60, "storms are forming and closed")
            emitter = workers.start(stages="emit", http_address="127.0.0.1:0", max_poll_records="1")
            await until(lambda: len(list(folder.glob("storms/*.yaml"))) >= WRITTEN, 60, "storms are written")
            emitter.send_signal(signal.SIGSTOP)
            await until(lambda: _shows(settings, 1), 60, "some are shown as written, some as waiting")
            async with chromium() as browser:
                page = await browser.new_page(viewport=SIZE, device_scale_factor=1)
                await page.goto(f"http://{settings.http_address}/")
                await page.locator("#live[data-state=live]").wait_for()
                await page.screenshot(path=PICTURE, full_page=True)
                print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")
    finally:
        redis.stop()
        kafka.stop()


async def _shows(settings: Settings, written: int) -> bool:
    """Whether storms are forming and waiting, at least `written` are written, and one is critical."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"http://{settings.http_address}/") as answer:
                text = await answer.text()
        except aiohttp.ClientError:
            return False
    recent = text[text.index('id="recent"') :]
    return (
        'class="waiting"' in recent
        and recent.count(">written<") >= written
        and 'data-level="critical"' in recent[: recent.index("</table>")]
        and ">Ready<" in text
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(take(Path(folder)))
