"""Publishing from files and pipes to a real broker: what becomes a record, and what stops it before any is sent."""

import asyncio
import io
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from threading import Thread

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from click.testing import CliRunner, Result

from stormfold.cli import command, publication
from stormfold.cli.publication import Publication, Run
from stormfold.errors import ActionRequired
from stormfold.kafka.client import client_options, open_admin
from stormfold.kafka.topics import describe
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.local.kafka import EmbeddedKafka
from stormfold.settings import Settings
from tests.support.servers import MAX_RECORD, environment, until

ALERT = {"labels": {"alertname": "Down", "pod": "a-1"}}
WEBHOOK = {"version": "4", "groupKey": "{}", "status": "firing", "alerts": [ALERT | {"status": "firing"}] * 3}


def _publish(settings: Settings, *arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(command, ["publish", *arguments], env=environment(settings), input=stdin)


async def _published(settings: Settings) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        settings.alerts_topic,
        **client_options(settings),
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=1 << 26,
    )
    await consumer.start()
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        values: list[bytes] = []
        while len(values) < sum(ends.values()):
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                values += [record.value for record in records]
    finally:
        await consumer.stop()
    return values


async def test_a_file_reaches_the_topic_unchanged(topics: Settings, tmp_path: Path) -> None:
    """Each line is a record as it stands in the file, a list of 1,200 alerts three records, and they are spread."""
    lines = [json.dumps(WEBHOOK), json.dumps(ALERT), '{"labels": {"alertname":"\\ud83d\\ude00 \xfc"}}']
    path = tmp_path / "alerts.json"
    path.write_text("\n".join([*lines, json.dumps([ALERT] * 1200)]))
    result = await asyncio.to_thread(_publish, topics, str(path))
    assert result.exit_code == 0, result.output
    assert result.stdout == f"1,205 alerts in 6 records published to {topics.alerts_topic}\n"
    values = await _published(topics)
    assert {value for value in values if not value.startswith(b"[")} == {line.encode() for line in lines}
    assert sorted(len(json.loads(value)) for value in values if value.startswith(b"[")) == [200, 500, 500]


async def test_standard_input_is_read(topics: Settings) -> None:
    """`-` is standard input."""
    result = await asyncio.to_thread(_publish, topics, "-", stdin=json.dumps(ALERT).encode())
    assert result.stdout == f"1 alert in 1 record published to {topics.alerts_topic}\n"
    assert await _published(topics) == [json.dumps(ALERT).encode()]


async def test_nothing_is_published_if_a_record_is_poison(topics: Settings) -> None:
    """All records are checked first, the lines are named, exit 1; `--force` publishes them nevertheless."""
    content = b"\n".join(
        [json.dumps(ALERT).encode(), b'{"temperature": 20}', b"17", b'{"labels": {"alertname": "A", "a": 5}}']
    )
    result = await asyncio.to_thread(_publish, topics, "-", stdin=content)
    assert result.exit_code == 1
    assert "standard input:2: cannot be parsed" in result.stderr
    assert "standard input:3: cannot be parsed" in result.stderr
    assert "standard input:4: cannot be parsed: labels.a: expected str, got int" in result.stderr
    assert "--force" in result.stderr
    assert await _published(topics) == []
    forced = await asyncio.to_thread(_publish, topics, "-", "--force", stdin=content)
    assert forced.exit_code == 0
    assert sorted(await _published(topics)) == sorted(content.split(b"\n"))


async def test_a_record_of_the_configured_mapping_is_published(topics: Settings, tmp_path: Path) -> None:
    """The configuration of the environment decides which records can be read."""
    config = tmp_path / "stormfold.yaml"
    config.write_text("mappings: [{name: mine, when: temperature, labels: {alertname: \"'TooHot'\"}}]\n")
    settings = topics.model_copy(update={"config": config})
    result = await asyncio.to_thread(_publish, settings, "-", stdin=b'{"temperature": 20}')
    assert result.stdout == f"1 alert in 1 record published to {topics.alerts_topic}\n"


async def test_invalid_json_in_any_line_prevents_publishing(topics: Settings) -> None:
    """Also in the last line, and also with `--force`."""
    result = await asyncio.to_thread(_publish, topics, "-", "--force", stdin=json.dumps(ALERT).encode() + b"\n{")
    assert result.exit_code == 1
    assert "standard input:2: not JSON" in result.stderr
    assert await _published(topics) == []


async def test_a_too_large_record_names_topic_and_setting(topics: Settings) -> None:
    """The error names the topic and its setting."""
    large = json.dumps({"labels": {"alertname": "A"}, "annotations": {"text": "x" * 13_000_000}}).encode()
    result = await asyncio.to_thread(_publish, topics, "-", "--force", stdin=large)
    assert result.exit_code == 1
    assert f"larger than {topics.alerts_topic} allows" in result.stderr
    assert "max.message.bytes" in result.stderr


def test_a_missing_topic_names_the_command_that_creates_it(settings: Settings) -> None:
    """With the command that creates it."""
    result = _publish(settings, "-", stdin=json.dumps(ALERT).encode())
    assert result.exit_code == 1
    assert f"topic {settings.alerts_topic} does not exist" in result.stderr
    assert "stormfold topics --create" in result.stderr


def test_a_missing_file_exits_with_2(settings: Settings) -> None:
    """As for every mistake in the arguments."""
    result = _publish(settings, "nowhere.json")
    assert result.exit_code == 2
    assert "nowhere.json" in result.stderr


async def _limit_records(settings: Settings, size: int) -> None:
    """Sets the largest batch of records that `alerts` takes (bytes), which the broker learns from its controller."""
    wanted = {"max.message.bytes": str(size)}
    topic = next(topic for topic in wanted_topics(settings, 1) if topic.name == settings.alerts_topic)
    async with open_admin(settings) as admin:

        async def learned() -> bool:
            (found,) = (await describe(admin, [topic])).values()
            return found.settings.items() >= wanted.items()

        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, settings.alerts_topic, wanted)])
        await until(learned)


async def test_publish_reports_a_stall_and_gives_up(
    topics: Settings, kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line after some seconds without an acknowledgement, then an error with what was delivered, and exit code 1."""
    monkeypatch.setattr(publication, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(publication, "TIMEOUT_SECONDS", 2.0)

    def failing() -> Iterator[bytes]:
        os.kill(kafka.pid, signal.SIGSTOP)
        yield json.dumps(ALERT).encode()

    run, printed = Run(1, "a"), io.StringIO()
    began = time.monotonic()
    try:
        with redirect_stderr(printed), pytest.raises(ActionRequired, match="no acknowledgement for 2 s: ") as stop:
            await Publication(topics, run).send(failing())
    finally:
        os.kill(kafka.pid, signal.SIGCONT)
    assert time.monotonic() - began < 30
    assert (
        "has acknowledged nothing for 0.5 s; 0 records delivered, and perhaps some of the next 1" in printed.getvalue()
    )
    assert "0 records delivered, and perhaps some of the next 1" in str(stop.value)
    assert f"--resume {run}" in str(stop.value.hint)


async def test_a_publication_that_failed_in_the_middle_is_completed_without_duplicates(
    topics: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publication, "BATCH_SIZE", 10)
    # Equal records are distinct alerts.
    lines = [json.dumps(ALERT | {"status": f"{number // 2}"}).encode() for number in range(45)]
    path = tmp_path / "alerts.json"
    path.write_bytes(b"\n".join(lines))
    with path.open("rb") as file:
        run = Run.begin(file)

    def failing() -> Iterator[bytes]:
        yield from lines[:20]
        # The event loop waits, so that nothing is sent before it is done.
        thread = Thread(target=lambda: asyncio.run(_limit_records(topics, 50)))
        thread.start()
        thread.join()
        yield from lines[20:]

    with pytest.raises(ActionRequired, match="20 records delivered, and perhaps some of the next 10") as stop:
        await Publication(topics, run).send(failing())
    assert f"--resume {run}" in str(stop.value.hint)
    await _limit_records(topics, MAX_RECORD)
    (tmp_path / "other.json").write_text(json.dumps(ALERT))
    other = await asyncio.to_thread(_publish, topics, str(tmp_path / "other.json"), "--force", "--resume", str(run))
    assert other.exit_code == 1 and f"is not the file that {run} published" in other.stderr
    result = await asyncio.to_thread(_publish, topics, str(path), "--force", "--resume", str(run))
    assert result.exit_code == 0, result.output
    expected = f"25 records published to {topics.alerts_topic}; 20 records had been delivered before\n"
    assert result.stdout == expected
    assert sorted(await _published(topics)) == sorted(lines)
    again = await asyncio.to_thread(_publish, topics, str(path), "--force", "--resume", str(run))
    assert again.stdout == f"0 records published to {topics.alerts_topic}; 45 records had been delivered before\n"
