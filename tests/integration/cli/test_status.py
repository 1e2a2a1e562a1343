"""The problems that `stormfold status` finds, while it still shows the rest."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete

from stormfold.errors import NOT_RUNNING_HINT
from stormfold.kafka.client import client_options, open_admin
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.process import free_port
from stormfold.local.redis import EmbeddedRedis
from stormfold.redis.client import connect
from stormfold.settings import Settings
from tests.support.alerts import Sent, alert, record
from tests.support.cli import stormfold
from tests.support.pipeline import assert_balanced, drained, publish
from tests.support.servers import until
from tests.support.workers import Workers

NOWHERE = {"kafka_bootstrap_servers": "127.0.0.1:9", "redis_url": "redis://127.0.0.1:10/0"}


class Shown(NamedTuple):
    code: int
    status: Any

    @property
    def problems(self) -> list[tuple[str, str, str | None]]:
        """Component, problem and hint."""
        return [(found["component"], found["problem"], found["hint"]) for found in self.status["problems"]]

    def records(self, stage: str) -> dict[int, int]:
        """Lag by partition."""
        return {row["partition"]: row["records"] for row in self.status["lag"] if row["stage"] == stage}


async def shown(settings: Settings) -> Shown:
    answer = await stormfold(settings, "status", "-o", "json")
    return Shown(answer.returncode, json.loads(answer.stdout))


def recent(count: int, partition: int = 0) -> list[Sent]:
    """Alerts with the present time."""
    now = time.time_ns() // 1_000_000
    return [Sent(now, record(alert(pod=f"pod-{n}")), partition) for n in range(count)]


async def test_status_shows_open_groups_windows_and_lag(topics: Settings, tmp_path: Path) -> None:
    """It also shows until when storms are closed."""
    config = tmp_path / "stormfold.yaml"
    config.write_text("windows: {gap: 30m, grace: 1s, slice: 1h}\n")
    await publish(topics, recent(5))
    with Workers(topics, tmp_path, config) as workers:
        workers.start(stages="intake,fold,close")

        async def folded() -> Shown | None:
            now = await shown(topics)
            version = now.status["state_version"]
            return now if version.get("horizon") and version["open_groups"] and now.status["closed_until"] else None

        version = (await until(folded, what="something is open")).status["state_version"]
        assert version["windows"] == {"gap": "30m", "grace": "1s", "slice": "1h"} and version["partitions"] == 3
        assert version["open_groups"] == 1 and version["oldest_open"] <= version["horizon"]
        assert -5 < version["horizon_delay_seconds"] < 30
    await publish(topics, [*recent(7), *recent(2, partition=2)])
    left = await shown(topics)
    assert left.code == 0 and left.records("intake") == {0: 7, 1: 0, 2: 2} and left.status["worker"]["answers"] is False
    text = (await stormfold(topics, "status")).stdout
    assert f"lag of 9 records in {topics.alerts_topic}, by partition 0: 7, 2: 2" in text
    assert "1 group, the oldest from" in text and "emit           no lag" in text
    assert "sink           unknown: no worker answers here" in text


async def test_each_missing_topic_is_a_problem_with_a_hint(settings: Settings) -> None:
    """The part about Redis is shown as usual."""
    found = await shown(settings)
    missing = [settings.alerts_topic, settings.keyed_topic, settings.storms_topic, settings.incidents_topic]
    assert found.code == 1 and found.status["redis"]["policy"]
    assert found.problems == [
        (
            "kafka",
            f"topic {topic} does not exist in Kafka at {settings.kafka_bootstrap_servers}",
            "run `stormfold topics --create`",
        )
        for topic in missing
    ]


async def test_without_kafka_the_part_about_redis_is_shown(topics: Settings) -> None:
    """That Kafka does not answer is the only problem."""
    found = await shown(topics.model_copy(update={"kafka_bootstrap_servers": NOWHERE["kafka_bootstrap_servers"]}))
    assert found.code == 1 and found.status["lag"] == [] and found.status["redis"]["used_bytes"]
    ((component, problem, _),) = found.problems
    assert component == "kafka" and "no Kafka broker answers at 127.0.0.1:9" in problem


async def test_a_recreated_topic_needs_a_reset_of_positions(topics: Settings, tmp_path: Path) -> None:
    config = tmp_path / "stormfold.yaml"
    config.write_text("windows: {gap: 1s, grace: 1s, slice: 2s}\n")
    await publish(topics, recent(5))
    with Workers(topics, tmp_path, config) as workers:
        workers.start()
        assert_balanced(await drained(topics, config))
    async with open_admin(topics) as admin:
        await admin.delete_topics([topics.alerts_topic])

        async def created() -> bool:
            answer = await admin.create_topics([NewTopic(topics.alerts_topic, 3, 1)])
            return bool(answer.topic_errors[0][1] == 0)

        await until(created, what="the topic is recreated")
    found = await shown(topics)
    ((component, problem, hint),) = found.problems
    assert found.code == 1 and component == "intake"
    assert problem == f"{topics.alerts_topic}-0 ends at 0, before the position 5: it is not read"
    assert hint and "stormfold topics --reset-positions" in hint


async def test_records_deleted_by_retention_are_a_problem_and_not_lag(topics: Settings) -> None:
    await publish(topics, recent(20))
    tp = TopicPartition(topics.alerts_topic, 0)
    async with AIOKafkaConsumer(
        **client_options(topics), group_id=topics.consumer_group("intake"), enable_auto_commit=False
    ) as consumer:
        consumer.assign([tp])
        await consumer.commit({tp: 4})
    async with open_admin(topics) as admin:
        await admin.delete_records({tp: RecordsToDelete(before_offset=15)})
    found = await shown(topics)
    ((component, problem, _),) = found.problems
    assert (found.code, component) == (1, "intake")
    assert problem == f"{topics.alerts_topic}-0: retention deleted 11 records before they were read"
    assert found.records("intake") == {0: 5, 1: 0, 2: 0}


@pytest.fixture
def own_redis(tmp_path: Path) -> Any:
    server = EmbeddedRedis(tmp_path / "redis")
    server.start()
    yield server
    server.kill()


async def test_a_redis_that_may_evict_keys_is_a_problem(topics: Settings, own_redis: EmbeddedRedis) -> None:
    settings = topics.model_copy(update={"redis_url": own_redis.url})
    async with connect(settings) as redis:
        await redis.config_set("maxmemory", "100mb")
        await redis.config_set("maxmemory-policy", "noeviction")
        assert (await shown(settings)).code == 0
        await redis.config_set("maxmemory-policy", "allkeys-lru")
    found = await shown(settings)
    ((component, problem, hint),) = found.problems
    assert (found.code, component, hint) == (1, "redis", "set maxmemory-policy noeviction") and "allkeys-lru" in problem
    assert found.status["redis"]["max_bytes"] == 100 * 2**20


async def test_servers_that_hang_are_problems_after_a_timeout(
    settings: Settings, own_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    broker = EmbeddedKafka(tmp_path / "kafka")
    await asyncio.to_thread(broker.start)
    frozen = settings.model_copy(update={"redis_url": own_redis.url, "kafka_bootstrap_servers": broker.bootstrap})
    for server in (broker, own_redis):
        os.kill(server.pid, signal.SIGSTOP)
    try:
        found = await shown(frozen)
    finally:
        for server in (broker, own_redis):
            os.kill(server.pid, signal.SIGCONT)
        await asyncio.to_thread(broker.kill)
    assert found.code == 1
    assert sorted(found.problems) == [
        (
            "kafka",
            f"no Kafka broker answers at {broker.bootstrap} (STORMFOLD_KAFKA_BOOTSTRAP_SERVERS): no answer",
            NOT_RUNNING_HINT,
        ),
        (
            "redis",
            f"Redis is not available (STORMFOLD_REDIS_URL): Timeout reading from {own_redis.address}",
            NOT_RUNNING_HINT,
        ),
    ]


async def test_the_sink_is_the_one_the_worker_uses(topics: Settings, tmp_path: Path) -> None:
    """The setting of the command does not matter."""
    here = topics.model_copy(update={"http_address": f"127.0.0.1:{free_port()}", "sink": "kubernetes"})
    sink = f"directory:{tmp_path / 'storms'}"
    with Workers(here, tmp_path) as workers:
        workers.start(sink=sink)

        async def answered() -> Shown | None:
            found = await shown(here)
            return found if found.status["worker"]["answers"] else None

        assert (await until(answered, what="the worker answers")).status["sink"] == sink
        assert f"sink           {sink}" in (await stormfold(here, "status")).stdout
    assert (await shown(here)).status["sink"] is None


async def test_problems_of_the_worker_are_shown(topics: Settings, tmp_path: Path) -> None:
    here = topics.model_copy(update={"http_address": f"127.0.0.1:{free_port()}"})
    with Workers(here, tmp_path) as workers:
        workers.start(**NOWHERE)

        async def reported() -> list[str] | None:
            found = await shown(here)
            assert found.code == (1 if found.problems else 0)
            components = [component for component, _, _ in found.problems]
            return components if "worker: redis" in components else None

        assert await until(reported, what="the worker's problems") == [
            "worker: close", "worker: correlate", "worker: emit", "worker: emit-incidents", "worker: fold",
            "worker: intake", "worker: redis",
        ]  # fmt: skip
        assert "127.0.0.1:9 (STORMFOLD_KAFKA_BOOTSTRAP_SERVERS)" in (await stormfold(here, "status")).stderr


@asynccontextmanager
async def answering(settings: Settings, response: bytes) -> AsyncIterator[Settings]:
    """Settings with the address of a program that answers everything with `response`."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield settings.model_copy(update={"http_address": f"127.0.0.1:{port}"})


@pytest.mark.parametrize("response", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"220 mail.example ESMTP\r\n"])
async def test_another_program_at_the_address_is_not_a_worker(topics: Settings, response: bytes) -> None:
    async with answering(topics, response) as here:
        found = await shown(here)
    assert found.code == 0 and found.status["worker"]["answers"] is False


async def test_the_answer_of_another_program_cannot_control_the_terminal(topics: Settings) -> None:
    evil = "\x1b[2J\u202e\r\n"
    body = json.dumps({"ready": False, "problems": [dict.fromkeys(("component", "problem", "hint", "since"), evil)]})
    async with answering(topics, f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()) as here:
        shown = await stormfold(here, "status")
    assert shown.returncode == 1 and shown.stderr.count(r"\x1b[2J\u202e\r\n") == 4
    assert (shown.stdout + shown.stderr).replace("\n", "").isprintable()
