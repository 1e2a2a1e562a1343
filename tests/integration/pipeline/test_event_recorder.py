"""The page on Alertmanager: the event recorder of a real one writes into a real broker, and the audit balances."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stormfold.decoding import decode_labels
from stormfold.formats import parse
from stormfold.settings import Settings
from tests.integration.deploy.test_docs import blocks
from tests.integration.receive.test_alertmanager import PAGE, SECONDS
from tests.support.alertmanager import Alertmanager, program
from tests.support.gobuild import built
from tests.support.pipeline import Pipeline
from tests.support.servers import until

LABELS = [
    {
        "alertname": "KubePodCrashLooping",
        "cluster": "eu1",
        "namespace": "shop",
        "pod": f"api-{n}",
        "severity": "critical",
    }
    for n in range(12)
]
BROKER = "kafka:9092"
"""Address on the page."""


@pytest.fixture
async def alertmanager(request: pytest.FixtureRequest, topics: Settings, tmp_path: Path) -> AsyncIterator[Alertmanager]:
    """An Alertmanager with the event recorder of the page, whose only receiver notifies nobody."""
    await asyncio.to_thread(built, request.config, program)
    config = next(block for block in blocks(PAGE, "yaml") if "event_recorder" in block)
    for name, own in ((BROKER, topics.kafka_bootstrap_servers), ("topic: alerts", f"topic: {topics.alerts_topic}")):
        assert name in config
        config = config.replace(name, own)
    server = Alertmanager(tmp_path / "alertmanager", config, "--enable-feature=event-recorder")
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.stop)


async def alerts_in(topics: Settings, pipeline: Pipeline, resolved: bool) -> list[tuple[str | None, dict[str, str]]]:
    """Fingerprints and labels of the firing or resolved alerts in the topic."""
    records = await pipeline.read(topics.alerts_topic)
    alerts = [alert for one in records for alert in parse(one.value, one.headers, one.timestamp)]
    return [(alert.fingerprint, decode_labels(alert.labels)) for alert in alerts if alert.resolved is resolved]


async def test_the_event_recorder_of_alertmanager_makes_a_storm(
    topics: Settings, short_pipeline: Pipeline, alertmanager: Alertmanager
) -> None:
    """Each alert fires once and is resolved once, with the fingerprint that Alertmanager shows; a repetition adds
    nothing, and no other event becomes an alert or a dead letter."""
    short_pipeline.start()
    begin = datetime.now(UTC)
    firing = [{"labels": one, "startsAt": begin.isoformat(), "annotations": {"summary": "Größe"}} for one in LABELS]
    shown = {one["fingerprint"]: one["labels"] for one in await alertmanager.alerts(firing)}
    assert len(shown) == len(LABELS)
    await alertmanager.alerts(firing)

    async def arrived(resolved: bool) -> bool:
        found = await alerts_in(topics, short_pipeline, resolved)
        return len(found) == len(shown) and all(shown.get(str(fingerprint)) == labels for fingerprint, labels in found)

    await until(lambda: arrived(False), SECONDS, "firing alerts arrive")
    end = (begin + timedelta(milliseconds=1)).isoformat()
    await alertmanager.alerts([one | {"endsAt": end} for one in firing])
    await until(lambda: arrived(True), SECONDS, "resolved alerts arrive")
    assert len(await short_pipeline.read(topics.alerts_topic)) > 2 * len(LABELS)
    await short_pipeline.drained(aggregated=2 * len(LABELS))
    assert not await short_pipeline.read(topics.alerts_dlq_topic)
    counted = (await short_pipeline.aggregates()).values()
    assert sum(aggregate.alert_count for aggregate in counted) == 2 * len(LABELS)
    assert "Storm" in {aggregate.aggregate_class for aggregate in counted}
