"""The topics on a real broker: creating them, checking their settings, and the command that does both."""

import asyncio
import json
from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import OffsetAndMetadata
from click.testing import CliRunner, Result

from stormfold.cli import command
from stormfold.kafka.client import client_options, open_admin
from stormfold.kafka.committed import CommitMetadata, read_committed
from stormfold.kafka.topics import FOREVER, HOUR, MAX_RECORD, PARTITIONS, Finding, Topic, create, describe, validate
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.settings import Settings
from tests.support.servers import environment


def _run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["topics", *arguments], env=environment(settings))


async def _make(settings: Settings, name: str, configs: Mapping[str, str]) -> None:
    async with open_admin(settings) as admin:
        await admin.create_topics([NewTopic(name, 2, 1, topic_configs=dict(configs))])


async def check(admin: AIOKafkaAdminClient, wanted: Sequence[Topic]) -> list[Finding]:
    """Compares the topics in Kafka with what is needed."""
    return validate(wanted, await describe(admin, wanted))


async def test_created_topics_pass_the_check(settings: Settings) -> None:
    """Creating them again changes nothing."""
    wanted = wanted_topics(settings, 2)
    async with open_admin(settings) as admin:
        assert [(finding.topic, finding.state) for finding in await check(admin, wanted)] == [
            (topic.name, "missing") for topic in wanted
        ]
        assert sorted(await create(admin, wanted)) == sorted(topic.name for topic in wanted)
        assert await check(admin, wanted) == []
        assert await create(admin, wanted) == []
        present = await describe(admin, wanted)
    assert [present[topic.name].partitions for topic in wanted] == [2, 2, 2, 2, 1, 1, 1]
    for owned in (topic.name for topic in wanted if topic.name != settings.alerts_topic):
        assert present[owned].settings["message.timestamp.type"] == "LogAppendTime"
        assert int(present[owned].settings["retention.ms"]) >= 72 * HOUR
    kept = [int(present[name].settings["retention.ms"]) for name in (settings.storms_topic, settings.incidents_topic)]
    assert kept[1] >= 2 * kept[0], "a storm that is read again must find its incident"
    assert int(present[settings.alerts_dlq_topic].settings["max.message.bytes"]) > MAX_RECORD


async def test_producer_timestamps_keep_old_and_future_records(settings: Settings) -> None:
    """The topic does not delete old records, does not refuse future ones, and passes the check."""
    wanted = wanted_topics(settings, 1, producer_timestamps=True)
    async with open_admin(settings) as admin:
        await create(admin, wanted)
        alerts = (await describe(admin, wanted))[settings.alerts_topic].settings
        assert await check(admin, wanted) == []
        assert await check(admin, wanted_topics(settings)) == []
    assert alerts["message.timestamp.type"] == "CreateTime"
    assert alerts["retention.ms"] == "-1"
    assert alerts["message.timestamp.after.max.ms"] == FOREVER


async def test_settings_that_can_lose_alerts_are_misconfigured(settings: Settings) -> None:
    """Each is found with the setting that corrects it; harmless settings of `alerts` are not reported."""
    await _make(settings, settings.alerts_topic, {"message.timestamp.type": "CreateTime", "retention.ms": "1000"})
    await _make(
        settings,
        settings.keyed_topic,
        {"cleanup.policy": "compact", "retention.ms": str(HOUR), "max.message.bytes": "1000"},
    )
    await _make(
        settings,
        settings.alerts_dlq_topic,
        {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(MAX_RECORD)},
    )
    await _make(settings, settings.storms_topic, {"message.timestamp.type": "LogAppendTime", "retention.ms": "-1"})
    async with open_admin(settings) as admin:
        found = await check(admin, wanted_topics(settings))
    assert [(finding.topic, finding.setting or finding.state) for finding in found] == [
        (settings.keyed_topic, "cleanup.policy=delete"),
        (settings.keyed_topic, "message.timestamp.type=LogAppendTime"),
        (settings.keyed_topic, f"max.message.bytes={MAX_RECORD}"),
        (settings.keyed_topic, f"retention.ms={72 * HOUR}"),
        (settings.incidents_topic, "missing"),
        (settings.alerts_dlq_topic, f"max.message.bytes={MAX_RECORD + 64 * 1024}"),
        (settings.storms_dlq_topic, "missing"),
        (settings.incidents_dlq_topic, "missing"),
    ]


def test_the_command_creates_missing_topics(settings: Settings) -> None:
    """Missing topics are exit 1 and a hint; `--create` creates them, once; then the check passes."""
    missing = _run(settings)
    assert missing.exit_code == 1
    assert "stormfold topics --create" in missing.stderr
    assert missing.stdout.count("missing") == 7
    made = _run(settings, "--create", "--partitions", "2", "-o", "json")
    assert made.exit_code == 0
    assert [(row["state"], row["partitions"]) for row in json.loads(made.stdout)] == [
        *[("created", 2)] * 4,
        *[("created", 1)] * 3,
    ]
    again = _run(settings, "--create", "--partitions", str(PARTITIONS), "-o", "json")
    assert again.exit_code == 0
    assert {row["state"] for row in json.loads(again.stdout)} == {"ok"}


async def test_create_does_not_change_a_misconfigured_topic(settings: Settings) -> None:
    """Its finding stays."""
    await _make(settings, settings.keyed_topic, {})
    async with open_admin(settings) as admin:
        assert settings.keyed_topic not in await create(admin, wanted_topics(settings, 1))
        assert {finding.topic for finding in await check(admin, wanted_topics(settings, 1))} == {settings.keyed_topic}


async def test_the_command_prints_how_to_correct_a_topic(settings: Settings) -> None:
    """A misconfigured topic is exit 1, with the reason and the command that corrects it."""
    await _make(settings, settings.keyed_topic, {})
    result = await asyncio.to_thread(_run, settings, "--create")
    assert result.exit_code == 1
    assert f"{settings.keyed_topic}: message.timestamp.type is CreateTime, needs LogAppendTime" in result.stderr
    assert f"--topic {settings.keyed_topic} --add-config message.timestamp.type=LogAppendTime" in result.stderr


async def test_the_command_resets_positions_that_contradict_the_topic(topics: Settings) -> None:
    """A committed position after the end of the topic belongs to another topic: it is named and reset."""
    group, tp = topics.consumer_group("intake"), TopicPartition(topics.alerts_topic, 1)
    consumer = AIOKafkaConsumer(**client_options(topics), group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([tp])
        await consumer.commit({tp: OffsetAndMetadata(10, CommitMetadata(event_time=5, timestamp=7).encode())})
    finally:
        await consumer.stop()
    result = await asyncio.to_thread(_run, topics, "--reset-positions")
    assert result.exit_code == 0, result.output
    assert f"Positions reset: {topics.alerts_topic}-1\n" in result.stderr
    assert (await read_committed(topics, group, topics.alerts_topic))[1][0] == 0
    again = await asyncio.to_thread(_run, topics, "--reset-positions")
    assert "every position fits" in again.stderr
