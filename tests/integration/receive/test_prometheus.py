"""Prometheus sends to `stormfold receive` as to an Alertmanager."""

import asyncio
from pathlib import Path

import pytest
import yaml

from stormfold.alert import Alert
from stormfold.decoding import decode_labels
from stormfold.formats import parse
from stormfold.settings import Settings
from tests.integration.receive.test_receive import receiving
from tests.integration.security.certificates import Authority
from tests.support.gobuild import built
from tests.support.pipeline import read_topic
from tests.support.prometheus import Prometheus, programs
from tests.support.servers import until


async def test_a_rule_that_fires_and_resolves_arrives(
    topics: Settings, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Both states arrive with the labels of the alert, also over TLS with a user and a password."""
    await asyncio.to_thread(built, request.config, programs)
    labels = {"severity": "critical", "cluster": "eu-1", "node": "worker-7"}
    rules = tmp_path / "rules.yaml"

    def write_rule(expression: str) -> None:
        rule = {"alert": "NodeDown", "expr": expression, "labels": labels}
        rules.write_text(yaml.safe_dump({"groups": [{"name": "nodes", "rules": [rule]}]}))

    write_rule("vector(0) > 0")
    authority = Authority(tmp_path / "authority")
    pair = authority.issue("receive")
    (tmp_path / "users").write_text("prometheus:secret\n")
    files = {
        "receive_ssl_certfile": pair.cert,
        "receive_ssl_keyfile": pair.key,
        "receive_users_file": tmp_path / "users",
    }
    # Prometheus sends to all of its Alertmanagers, so the second one has a topic of its own.
    other = topics.model_copy(update={"alerts_topic": topics.storms_topic})
    async with receiving(topics) as (url, _), receiving(other, **files) as (secured, _):
        plain = {"static_configs": [{"targets": [url.removeprefix("http://")]}]}
        with_tls = {
            "scheme": "https",
            "static_configs": [{"targets": [secured.removeprefix("https://")]}],
            "tls_config": {"ca_file": str(authority.file)},
            "basic_auth": {"username": "prometheus", "password": "secret"},
        }
        prometheus = Prometheus(tmp_path / "prometheus", {}, [rules], alertmanagers=[plain, with_tls])
        await asyncio.to_thread(prometheus.start)
        try:

            async def arrived(resolved: bool) -> bool:
                for topic in (topics.alerts_topic, other.alerts_topic):
                    found: list[Alert] = []
                    for record in await read_topic(topics, topic):
                        found += parse(record.value, record.headers, record.timestamp)
                    shown = [decode_labels(alert.labels) for alert in found if alert.resolved is resolved]
                    if {"alertname": "NodeDown", **labels} not in shown:
                        return False
                return True

            async def found_both() -> bool:
                return len((await prometheus.ask("alertmanagers"))["activeAlertmanagers"]) == 2

            # It repeats an alert only after a minute.
            await until(found_both, 60, "Prometheus knows its Alertmanagers")
            write_rule("vector(1) > 0")
            await prometheus.reload()
            await until(lambda: arrived(False), 120, "the firing alert arrives")
            write_rule("vector(0) > 0")
            await prometheus.reload()
            await until(lambda: arrived(True), 120, "the resolved alert arrives")
        finally:
            await asyncio.to_thread(prometheus.stop)
