"""The producer that the page on publishing alerts shows."""

import asyncio
import subprocess
import sys
from pathlib import Path

from stormfold.config import Config
from stormfold.series import SeriesReader
from stormfold.settings import Settings
from tests.integration.deploy.test_docs import blocks
from tests.support.pipeline import read_topic

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "produce-alerts.md"


async def test_the_producer_of_the_page_publishes_one_alert(topics: Settings) -> None:
    """As a file of its own it publishes one record, which is one alert with the labels that the page shows."""
    (program,) = blocks(PAGE, "python")
    program = program.replace("127.0.0.1:9092", topics.kafka_bootstrap_servers).replace(
        '"alerts"', f'"{topics.alerts_topic}"'
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=True)
    (published,) = await read_topic(topics, topics.alerts_topic)
    ((keyed, alert),) = SeriesReader(Config()).parse(published.value, published.headers, published.timestamp)
    assert not alert.resolved and b'"DiskFull"' in published.value and keyed.key
