"""`stormfold storms`: selection, order, formats and `--watch`."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import yaml

from stormfold.kafka.producer import Producer, ProducerRecord
from stormfold.settings import Settings
from stormfold.times import format_timestamp
from tests.support.cli import stormfold
from tests.support.servers import environment
from tests.support.storms import manifest

BEGIN = 1_780_000_000_000


def storm(number: int, storm_class: str = "Storm", **spec: str) -> ProducerRecord:
    """The record of a storm that was last seen `number` seconds after `BEGIN`."""
    name = f"storm-{number}"
    fields: dict[str, Any] = {"class": storm_class, "lastSeen": format_timestamp(BEGIN + number * 1000), **spec}
    return ProducerRecord(name.encode(), json.dumps(manifest(name, **fields)).encode())


async def put(settings: Settings, partition: int, records: Sequence[ProducerRecord]) -> None:
    """Publishes storms, as the close stage does."""
    producer = Producer(settings, "test")
    try:
        await producer.send(settings.storms_topic, {partition: records})
    finally:
        await producer.stop()


async def listed(settings: Settings, *words: str) -> list[int]:
    """The numbers of the listed storms."""
    answer = await stormfold(settings, "storms", *words, "-o", "json")
    assert answer.returncode == 0
    return [int(item["metadata"]["name"].removeprefix("storm-")) for item in json.loads(answer.stdout)["items"]]


@asynccontextmanager
async def watching(settings: Settings, *words: str, command: str = "storms") -> AsyncIterator[asyncio.StreamReader]:
    """The output of a command with `--watch`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from stormfold.cli import main; main()", command, "--watch", *words,
        env=os.environ | environment(settings), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    try:
        async with asyncio.timeout(30):
            yield process.stdout
    finally:
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130


async def test_the_newest_of_all_partitions_are_listed_once(topics: Settings) -> None:
    """Records that are not storms are skipped."""
    await put(topics, 0, [storm(n) for n in range(300)])
    await put(
        topics,
        2,
        [ProducerRecord(b"junk", b"\xff"), ProducerRecord(b"list", b"[]"), ProducerRecord(None, b"{}"), storm(305)],
    )
    await put(topics, 1, [storm(n) for n in range(300, 310)])
    assert await listed(topics) == [*range(309, 289, -1)]
    assert await listed(topics, "--limit", "3") == [309, 308, 307]
    assert await listed(topics, "--limit", "1000") == [*range(309, -1, -1)]


async def test_storms_of_a_class_are_found_below_many_others(topics: Settings) -> None:
    """The others are spread unevenly over the partitions."""
    await put(topics, 0, [storm(n) for n in range(10)])
    await put(topics, 1, [storm(n) for n in range(10, 15)])
    await put(topics, 0, [storm(n, "Isolated") for n in range(100, 1100)])
    await put(topics, 1, [storm(n, "Silenced") for n in range(1100, 1150)])
    assert await listed(topics, "--limit", "7") == [14, 13, 12, 11, 10, 9, 8]
    assert await listed(topics, "--class", "Silenced", "--limit", "2") == [1149, 1148]
    assert await listed(topics, "--class", "all", "--limit", "51") == [*range(1149, 1098, -1)]


async def test_the_table_is_safe_and_the_yaml_complete(topics: Settings) -> None:
    evil = 'Down{x="\x1b[2J\u202e"}'
    await put(topics, 0, [storm(1, pattern=evil, severity="critical")])
    table = (await stormfold(topics, "storms")).stdout
    heading, line = table.splitlines()
    assert heading.split()[:3] == ["LAST", "SEEN", "NAMESPACE"]
    assert line.isprintable() and r"\x1b[2J\u202e" in line
    assert all(
        word in line for word in (format_timestamp(BEGIN + 1000), "storm-1", "Storm", "critical", "412", "Inactivity")
    )
    document = yaml.safe_load((await stormfold(topics, "storms", "-o", "yaml")).stdout)
    assert document["kind"] == "List" and document["items"][0]["spec"]["pattern"] == evil


async def test_watch_shows_the_oldest_first_and_each_new_storm_once(topics: Settings) -> None:
    await put(topics, 0, [storm(n) for n in range(30)])
    async with watching(topics, "--limit", "2") as lines:
        words = [(await lines.readline()).decode().split() for _ in range(3)]
        assert [line[2] for line in words] == ["NAMESPACE", "storm-28", "storm-29"]
        await put(topics, 1, [storm(31, "Isolated"), storm(29), storm(32)])
        assert (await lines.readline()).decode().split()[2] == "storm-32"
        await put(topics, 2, [storm(32), storm(33)])
        assert (await lines.readline()).decode().split()[2] == "storm-33"


async def test_watch_prints_one_yaml_document_for_each_storm(topics: Settings) -> None:
    await put(topics, 0, [storm(1), storm(2)])
    async with watching(topics, "-o", "yaml") as lines:
        await put(topics, 1, [storm(3)])
        text = ""
        while text.count("truncated:") < 3:
            text += (await lines.readline()).decode()
    assert [found["metadata"]["name"] for found in yaml.safe_load_all(text)] == ["storm-1", "storm-2", "storm-3"]
