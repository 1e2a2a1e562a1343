"""`stormfold incidents`: it shares its code with `stormfold storms`; here are its topic, columns and formats."""

import json
from typing import Any

import msgspec
import yaml

from stormfold.announce.notice import Firing
from stormfold.kafka.producer import Producer, ProducerRecord
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.times import format_timestamp
from tests.integration.cli.test_storms import watching
from tests.support.cli import stormfold
from tests.support.incident_manifests import manifest

BEGIN = 1_780_000_000_000


def incident(number: int, **spec: Any) -> ProducerRecord:
    """The record of an incident that was last seen `number` seconds after `BEGIN`."""
    name = f"incident-{number}"
    found = manifest(name, **{"lastSeen": format_timestamp(BEGIN + number * 1000), **spec})
    return ProducerRecord(name.encode(), json.dumps(found).encode())


async def put(settings: Settings, *records: ProducerRecord) -> None:
    """Publishes incidents, as correlate does."""
    producer = Producer(settings, "test")
    try:
        await producer.send_by_key(settings.incidents_topic, records)
    finally:
        await producer.stop()


async def test_incidents_are_listed_by_their_last_alert_and_other_records_skipped(topics: Settings) -> None:
    empty = await stormfold(topics, "incidents")
    assert empty.returncode == 0 and "No incidents yet." in empty.stderr
    await put(topics, incident(2, stormCount=16), incident(1, continues="incident-0"), incident(2))
    await put(topics, ProducerRecord(b"junk", b"\xff"), ProducerRecord(b"{}", b"{}"))
    table = (await stormfold(topics, "incidents")).stdout
    heading, latest, before = table.splitlines()
    assert " ".join(heading.split()) == (
        "LAST SEEN NAMESPACE NAME SEVERITY ALERTS STORMS RESOURCES CLOSE REASON STARTED WITH"
    )
    assert latest.split()[2] == "incident-2" and before.split()[2:] == [
        "incident-1", "critical", "239", "1", "55", "Quiet", '{node="worker-7"}',
    ]  # fmt: skip
    document = yaml.safe_load((await stormfold(topics, "incidents", "--limit", "2", "-o", "yaml")).stdout)
    assert [item["kind"] for item in document["items"]] == ["AlertIncident", "AlertIncident"]
    assert document["items"][1]["spec"]["continues"] == "incident-0"


async def test_open_incidents_come_first(topics: Settings) -> None:
    await put(topics, incident(1))
    values = {
        "incident": "eu1-2", "namespace": "storms", "alerts": "4705", "storms": "16", "resources": "251",
        "startedWith": "{}", "lastAlert": format_timestamp(BEGIN),
    }  # fmt: skip
    firing = Firing(labels={}, annotations=values, rank=0, severity="critical", starts_at=BEGIN, last=BEGIN, gap=1)
    redis = connect(topics)
    try:
        await Store(redis, topics.redis_prefix).keep_announced({b"1": msgspec.json.encode(firing), b"2": b"{}"}, [])
    finally:
        await redis.aclose()
    _, latest, before = (await stormfold(topics, "incidents")).stdout.splitlines()
    assert latest.split()[2:] == ["eu1-2", "critical", "4705", "16", "251", "open", "{}"]
    assert before.split()[2] == "incident-1"


async def test_watch_shows_each_incident_once(topics: Settings) -> None:
    await put(topics, incident(1))
    async with watching(topics, command="incidents") as lines:
        words = [(await lines.readline()).decode().split() for _ in range(2)]
        assert [line[2] for line in words] == ["NAMESPACE", "incident-1"]
        await put(topics, incident(1), incident(2))
        assert (await lines.readline()).decode().split()[2] == "incident-2"
