"""The topics on a real broker: what is created, what is found wrong, what the command says."""

import asyncio
import json
from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.structs import OffsetAndMetadata
from click.testing import CliRunner, Result

from stormfold.cli import command
from stormfold.kafka.client import client_options, open_admin
from stormfold.kafka.committed import CommitMetadata, read_committed
from stormfold.kafka.topics import FOREVER, HOUR, MAX_RECORD, PARTITIONS, check, create, describe
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.settings import Settings
from tests.support.servers import environment


def _run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["topics", *arguments], env=environment(settings))


async def _make(settings: Settings, name: str, configs: Mapping[str, str]) -> None:
    async with open_admin(settings) as admin:
        await admin.create_topics([NewTopic(name, 2, 1, topic_configs=dict(configs))])


async def test_created_topics_are_right(settings: Settings) -> None:
    """What is created passes the check, and creating again changes nothing."""
    wanted = wanted_topics(settings, 2)
    async with open_admin(settings) as admin:
        assert [(finding.topic, finding.state) for finding in await check(admin, wanted)] == [
            (topic.name, "missing") for topic in wanted
        ]
        assert sorted(await create(admin, wanted)) == sorted(topic.name for topic in wanted)
        assert await check(admin, wanted) == []
        assert await create(admin, wanted) == []
        present = await describe(admin, wanted)
    assert [present[topic.name].partitions for topic in wanted] == [2, 2, 2, 1, 1]
    for owned in (settings.keyed_topic, settings.storms_topic, settings.alerts_dlq_topic, settings.storms_dlq_topic):
        assert present[owned].settings["message.timestamp.type"] == "LogAppendTime"
        assert int(present[owned].settings["retention.ms"]) >= 72 * HOUR
    assert int(present[settings.alerts_dlq_topic].settings["max.message.bytes"]) > MAX_RECORD


async def test_a_story_of_the_past_is_kept(settings: Settings) -> None:
    """With producers' timestamps old records are not deleted nor far future ones refused; that is not found wrong."""
    wanted = wanted_topics(settings, 1, producer_timestamps=True)
    async with open_admin(settings) as admin:
        await create(admin, wanted)
        alerts = (await describe(admin, wanted))[settings.alerts_topic].settings
        assert await check(admin, wanted) == []
        assert await check(admin, wanted_topics(settings)) == []
    assert alerts["message.timestamp.type"] == "CreateTime"
    assert alerts["retention.ms"] == "-1"
    assert alerts["message.timestamp.after.max.ms"] == FOREVER


async def test_what_loses_alerts_is_wrong(settings: Settings) -> None:
    """Each setting that can lose or refuse alerts is found, with what sets it right; the users' topic is theirs."""
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
        (settings.alerts_dlq_topic, f"max.message.bytes={MAX_RECORD + 64 * 1024}"),
        (settings.storms_dlq_topic, "missing"),
    ]


def test_the_command_tells_and_creates(settings: Settings) -> None:
    """Missing topics are exit 1 and a hint; `--create` makes them, once; then all is well."""
    missing = _run(settings)
    assert missing.exit_code == 1
    assert "stormfold topics --create" in missing.stderr
    assert missing.stdout.count("missing") == 5
    made = _run(settings, "--create", "--partitions", "2", "-o", "json")
    assert made.exit_code == 0
    assert [(row["state"], row["partitions"]) for row in json.loads(made.stdout)] == [
        *[("created", 2)] * 3,
        *[("created", 1)] * 2,
    ]
    again = _run(settings, "--create", "--partitions", str(PARTITIONS), "-o", "json")
    assert again.exit_code == 0
    assert {row["state"] for row in json.loads(again.stdout)} == {"ok"}


async def test_a_wrong_topic_is_left_alone(settings: Settings) -> None:
    """`create` doesn't change what somebody set up, it stays found."""
    await _make(settings, settings.keyed_topic, {})
    async with open_admin(settings) as admin:
        assert settings.keyed_topic not in await create(admin, wanted_topics(settings, 1))
        assert {finding.topic for finding in await check(admin, wanted_topics(settings, 1))} == {settings.keyed_topic}


async def test_the_command_says_how_to_set_a_topic_right(settings: Settings) -> None:
    """A wrong topic is exit 1, with the reason and the command that mends it."""
    await _make(settings, settings.keyed_topic, {})
    result = await asyncio.to_thread(_run, settings, "--create")
    assert result.exit_code == 1
    assert f"{settings.keyed_topic}: message.timestamp.type is CreateTime, needs LogAppendTime" in result.stderr
    assert f"--topic {settings.keyed_topic} --add-config message.timestamp.type=LogAppendTime" in result.stderr


async def test_the_command_forgets_positions_that_a_topic_contradicts(topics: Settings) -> None:
    """A committed position behind the end of the topic is of another topic: it is named and goes back to the start."""
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
    assert f"Read from the beginning: {topics.alerts_topic}-1\n" in result.stderr
    assert (await read_committed(topics, group, topics.alerts_topic))[1][0] == 0
    again = await asyncio.to_thread(_run, topics, "--reset-positions")
    assert "every position fits" in again.stderr
