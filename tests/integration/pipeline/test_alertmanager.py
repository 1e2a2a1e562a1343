"""The bridge and the configuration of docs/how-to/alertmanager.md, run with a real Alertmanager."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from stormfold.alert import Alert
from stormfold.decoding import decode_labels
from stormfold.formats import parse
from stormfold.local.process import HOST, ServerProcess
from stormfold.settings import Settings
from tests.integration.deploy.test_docs import blocks
from tests.support.alertmanager import Alertmanager, program
from tests.support.gobuild import built
from tests.support.pipeline import read_topic
from tests.support.servers import until

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "alertmanager.md"
SECONDS = 60
LABELS = [
    {"alertname": "NodeDown", "cluster": "eu-1", "node": "worker-7", "severity": "critical"},
    {"alertname": "PodCrashLooping", "cluster": "eu-1", "namespace": "payments", "pod": "api-7d9f6"},
    {"alertname": "Größe", "path": '/mnt/"a", b'},
]


class Bridge(ServerProcess):
    """The bridge program of the page."""

    name = "bridge"
    ready = b"Running on"

    def __init__(self, data_dir: Path, settings: Settings, topic: str) -> None:
        super().__init__(data_dir)
        self._variables = {"KAFKA": settings.kafka_bootstrap_servers, "TOPIC": topic}

    def prepare(self) -> Sequence[str]:
        """Writes the program; its port is known only now."""
        path = self.data_dir / "bridge.py"
        path.write_text(*blocks(PAGE, "python"))
        variables = self._variables | {"HOST": HOST, "PORT": str(self.port)}
        return ["env", *(f"{name}={value}" for name, value in variables.items()), sys.executable, "-u", str(path)]

    @property
    def url(self) -> str:
        """The URL that takes alerts."""
        return f"http://{self.address}/alerts"

    async def post(self, body: bytes) -> tuple[int, str]:
        """Posts a body; returns the status and text of the response."""
        async with aiohttp.ClientSession() as session, session.post(self.url, data=body) as answer:
            return answer.status, await answer.text()


@pytest.fixture
async def bridge(topics: Settings, tmp_path: Path) -> AsyncIterator[Bridge]:
    """A bridge that writes to `alerts`."""
    server = Bridge(tmp_path / "bridge", topics, topics.alerts_topic)
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.stop)


@pytest.fixture
async def alertmanager(request: pytest.FixtureRequest, bridge: Bridge, tmp_path: Path) -> AsyncIterator[Alertmanager]:
    """An Alertmanager that notifies the bridge."""
    await asyncio.to_thread(built, request.config, program)
    config = blocks(PAGE, "yaml")[0]
    assert "http://127.0.0.1:9095/alerts" in config
    server = Alertmanager(tmp_path / "alertmanager", config.replace("http://127.0.0.1:9095/alerts", bridge.url))
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.stop)


async def arrived(settings: Settings) -> list[Alert]:
    """Returns the alerts in the topic, as intake parses them."""
    records = await read_topic(settings, settings.alerts_topic)
    return [alert for one in records for alert in parse(one.value, one.headers, one.timestamp)]


async def test_firing_and_resolved_alerts_arrive_with_the_fingerprints_of_alertmanager(
    topics: Settings, alertmanager: Alertmanager
) -> None:
    begin = datetime.now(UTC)
    firing = [{"labels": labels, "startsAt": begin.isoformat()} for labels in LABELS]
    shown = {one["fingerprint"]: one["labels"] for one in await alertmanager.alerts(firing)}
    assert len(shown) == len(LABELS)

    async def all_of(resolved: bool) -> bool:
        found = [alert for alert in await arrived(topics) if alert.resolved is resolved]
        return {alert.fingerprint: decode_labels(alert.labels) for alert in found} == shown

    await until(lambda: all_of(False), SECONDS, "firing alerts arrive")
    end = begin + timedelta(milliseconds=1)
    await alertmanager.alerts([one | {"endsAt": end.isoformat()} for one in firing])
    await until(lambda: all_of(True), SECONDS, "resolved alerts arrive")


async def test_the_bridge_confirms_an_acknowledged_body_and_refuses_one_too_large_for_kafka(
    topics: Settings, bridge: Bridge
) -> None:
    """A body becomes one record, unchanged. A body that is too large is refused with 413, so that it is not retried."""
    body = b' {"labels": {"alertname": "A"} } \n'
    assert await bridge.post(body) == (200, "")
    status, _ = await bridge.post(body + b" " * 1_000_000)
    assert status == 413
    assert [one.value for one in await read_topic(topics, topics.alerts_topic)] == [body]


async def test_the_bridge_asks_for_a_retry_while_kafka_refuses(topics: Settings, tmp_path: Path) -> None:
    server = Bridge(tmp_path / "bridge", topics, f"{topics.alerts_topic}-missing")
    await asyncio.to_thread(server.start)
    try:
        status, text = await server.post(b"{}")
        assert status == 503 and "Error" in text
    finally:
        await asyncio.to_thread(server.stop)
