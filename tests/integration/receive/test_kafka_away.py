"""A real Alertmanager sends to `stormfold receive` while Kafka is away."""

import asyncio
import json
import os
import re
import signal
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from stormfold.local.kafka import EmbeddedKafka
from stormfold.settings import Settings
from tests.integration.receive.test_receive import broker as broker
from tests.integration.receive.test_receive import own as own
from tests.integration.receive.test_receive import receiving
from tests.support.alertmanager import Alertmanager, program
from tests.support.gobuild import built
from tests.support.pipeline import read_topic
from tests.support.servers import until

ALERTS = 5
CONFIG = """\
route: {{receiver: stormfold, group_by: ["..."], group_wait: 0s, group_interval: 1s, repeat_interval: 4h}}
receivers:
  - name: stormfold
    webhook_configs: [{{url: "{url}/alerts", send_resolved: true, max_alerts: 0}}]
"""


async def metric(address: str, pattern: str) -> int:
    """Returns the sum of the series whose beginning matches, from `/metrics` of a server."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}/metrics") as answer:
        text = await answer.text()
    return sum(int(float(value)) for value in re.findall(rf"^{pattern}.* (\S+)$", text, re.MULTILINE))


async def counts(settings: Settings) -> Counter[str]:
    """Returns how often each alert is in the topic, by its name."""
    records = await read_topic(settings, settings.alerts_topic)
    return Counter(one["labels"]["alertname"] for record in records for one in json.loads(record.value)["alerts"])


def named(prefix: str) -> dict[str, int]:
    """Returns the names of some alerts, each once."""
    return {f"{prefix}{number}": 1 for number in range(ALERTS)}


@pytest.mark.parametrize("kind", ["killed", "frozen"])
async def test_alertmanager_repeats_until_kafka_is_back_and_nothing_is_lost(
    own: Settings, broker: EmbeddedKafka, request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """A killed broker gets each alert once. One that froze may have written a request that was answered with 503."""
    await asyncio.to_thread(built, request.config, program)
    async with receiving(own) as (url, _):
        address = url.removeprefix("http://")
        alertmanager = Alertmanager(tmp_path / "alertmanager", CONFIG.format(url=url))
        await asyncio.to_thread(alertmanager.start)
        try:

            async def send(prefix: str) -> None:
                begin = datetime.now(UTC).isoformat()
                await alertmanager.alerts(
                    [{"labels": {"alertname": name}, "startsAt": begin} for name in named(prefix)]
                )

            async def arrived(prefix: str) -> bool:
                return named(prefix).keys() <= (await counts(own)).keys()

            await send("Before")
            await until(lambda: arrived("Before"), 60, "the first alerts arrive")
            refused = 'stormfold_receive_requests_total{code="503"}'
            before = await metric(address, re.escape(refused))
            if kind == "killed":
                await asyncio.to_thread(broker.kill)
            else:
                os.kill(broker.pid, signal.SIGSTOP)
            await send("During")

            async def repeated() -> bool:
                return await metric(address, re.escape(refused)) >= before + 2 * ALERTS

            await until(repeated, 60, "Alertmanager repeats refused requests")
            if kind == "killed":
                await asyncio.to_thread(broker.start)
            else:
                os.kill(broker.pid, signal.SIGCONT)
            await until(lambda: arrived("During"), 60, "the alerts arrive when Kafka is back")
            await send("After")
            await until(lambda: arrived("After"), 60, "later alerts arrive")
            repeats = await metric(address, re.escape(refused)) - before
            found = await counts(own)
        finally:
            if kind == "frozen":
                os.kill(broker.pid, signal.SIGCONT)
            await asyncio.to_thread(alertmanager.stop)
    once = named("Before") | named("During") | named("After")
    assert found.keys() == once.keys()
    if kind == "killed":
        assert found == once
    else:
        assert found.total() <= len(once) + repeats
        assert {name: found[name] for name in named("Before") | named("After")} == named("Before") | named("After")
