"""Prometheus sends to `stormfold receive` as to an Alertmanager."""

import asyncio
import time
from pathlib import Path

import pytest
import yaml

from stormfold.alert import Alert
from stormfold.decoding import decode_labels
from stormfold.formats import parse
from stormfold.local.process import HOST
from stormfold.settings import Settings
from tests.integration.receive.test_receive import receiving
from tests.support.gobuild import built
from tests.support.pipeline import read_topic
from tests.support.prometheus import Prometheus, programs
from tests.support.servers import until

BEFORE_SECONDS, FIRING_SECONDS = 15, 8
"""Prometheus knows its Alertmanagers some seconds after its start, and repeats an alert only after a minute."""


async def test_a_rule_that_fires_and_resolves_arrives(
    topics: Settings, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Both states arrive with the labels that Prometheus gives the alert."""
    await asyncio.to_thread(built, request.config, programs)
    labels = {"severity": "critical", "cluster": "eu-1", "node": "worker-7"}
    begin = round(time.time()) + BEFORE_SECONDS
    rule = {
        "alert": "NodeDown",
        "expr": f"vector(time()) > {begin} < {begin + FIRING_SECONDS}",
        "labels": labels,
    }
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "nodes", "rules": [rule]}]}))

    async with receiving(topics) as (url, _):
        address = url.removeprefix("http://")
        assert address.startswith(HOST)
        prometheus = Prometheus(tmp_path / "prometheus", {}, [rules], alertmanagers=[address])
        await asyncio.to_thread(prometheus.start)
        try:

            async def arrived(resolved: bool) -> bool:
                records = await read_topic(topics, topics.alerts_topic)
                found: list[Alert] = []
                for record in records:
                    found += parse(record.value, record.headers, record.timestamp)
                shown = [decode_labels(alert.labels) for alert in found if alert.resolved is resolved]
                return {"alertname": "NodeDown", **labels} in shown

            await until(lambda: arrived(False), 60, "the firing alert arrives")
            await until(lambda: arrived(True), 60, "the resolved alert arrives")
        finally:
            await asyncio.to_thread(prometheus.stop)
