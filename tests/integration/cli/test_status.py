"""What `stormfold status` finds wrong, and what it shows of the rest all the same."""

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
        """Part, what is wrong, what to do."""
        return [(found["component"], found["problem"], found["hint"]) for found in self.status["problems"]]

    def records(self, stage: str) -> dict[int, int]:
        """Lag by partition."""
        return {row["partition"]: row["records"] for row in self.status["lag"] if row["stage"] == stage}


async def shown(settings: Settings) -> Shown:
    answer = await stormfold(settings, "status", "-o", "json")
    return Shown(answer.returncode, json.loads(answer.stdout))


def recent(count: int, partition: int = 0) -> list[Sent]:
    """Alerts of this moment."""
    now = time.time_ns() // 1_000_000
    return [Sent(now, record(alert(pod=f"pod-{n}")), partition) for n in range(count)]


async def test_open_and_closed(topics: Settings, tmp_path: Path) -> None:
    """What is open, how far it is closed, under which windows; and the lag of what nobody reads, by partition."""
    config = tmp_path / "stormfold.yaml"
    config.write_text("windows: {gap: 30s, grace: 1s, slice: 1m}\n")
    await publish(topics, recent(5))
    with Workers(topics, tmp_path, config) as workers:
        workers.start(stages="intake,fold,close")

        async def folded() -> Shown | None:
            now = await shown(topics)
            epoch = now.status["epoch"]
            return now if epoch.get("horizon") and epoch["open_groups"] and now.status["closed_until"] else None

        epoch = (await until(folded, what="something is open")).status["epoch"]
        assert epoch["windows"] == {"gap": "30s", "grace": "1s", "slice": "1m"} and epoch["partitions"] == 3
        assert epoch["open_groups"] == 1 and epoch["oldest_open"] <= epoch["horizon"]
        assert -5 < epoch["horizon_delay_seconds"] < 30
    await publish(topics, [*recent(7), *recent(2, partition=2)])
    left = await shown(topics)
    assert left.code == 0 and left.records("intake") == {0: 7, 1: 0, 2: 2} and left.status["worker"]["answers"] is False
    text = (await stormfold(topics, "status")).stdout
    assert f"9 records behind in {topics.alerts_topic}, by partition 0: 7, 2: 2" in text
    assert "1 group, the oldest from" in text and "emit     caught up" in text
    assert "sink     not known: no worker answers here" in text


async def test_missing_topics(settings: Settings) -> None:
    """Each one is named, with what to do; Redis is shown all the same."""
    found = await shown(settings)
    missing = [settings.alerts_topic, settings.keyed_topic, settings.storms_topic]
    assert found.code == 1 and found.status["redis"]["policy"]
    assert found.problems == [
        (
            "kafka",
            f"topic {topic} does not exist in Kafka at {settings.kafka_bootstrap_servers}",
            "run `stormfold topics --create`",
        )
        for topic in missing
    ]


async def test_kafka_away(topics: Settings) -> None:
    """Redis' part is shown; what is missing of Kafka's is no problem of its own."""
    found = await shown(topics.model_copy(update={"kafka_bootstrap_servers": NOWHERE["kafka_bootstrap_servers"]}))
    assert found.code == 1 and found.status["lag"] == [] and found.status["redis"]["used_bytes"]
    ((part, why, _),) = found.problems
    assert part == "kafka" and "no Kafka broker answers at 127.0.0.1:9" in why


async def test_created_anew(topics: Settings, tmp_path: Path) -> None:
    """A topic that ends before the position is not read: a person must say what was meant."""
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

        await until(created, what="the topic is made anew")
    found = await shown(topics)
    ((part, why, hint),) = found.problems
    assert found.code == 1 and part == "intake"
    assert why == f"{topics.alerts_topic}-0 ends at 0, before the position 5: it is not read"
    assert hint and "stormfold topics --reset-positions" in hint


async def test_lost(topics: Settings) -> None:
    """Records that retention took before they were read are counted, and are no lag."""
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
    ((part, why, _),) = found.problems
    assert (found.code, part) == (1, "intake")
    assert why == f"{topics.alerts_topic}-0: retention took 11 records before they were read"
    assert found.records("intake") == {0: 5, 1: 0, 2: 0}


@pytest.fixture
def own_redis(tmp_path: Path) -> Any:
    server = EmbeddedRedis(tmp_path / "redis")
    server.start()
    yield server
    server.kill()


async def test_policy(topics: Settings, own_redis: EmbeddedRedis) -> None:
    """A Redis that may throw keys away is wrong, however well it does."""
    settings = topics.model_copy(update={"redis_url": own_redis.url})
    async with connect(settings) as redis:
        await redis.config_set("maxmemory", "100mb")
        await redis.config_set("maxmemory-policy", "noeviction")
        assert (await shown(settings)).code == 0
        await redis.config_set("maxmemory-policy", "allkeys-lru")
    found = await shown(settings)
    ((part, why, hint),) = found.problems
    assert (found.code, part, hint) == (1, "redis", "set maxmemory-policy noeviction") and "allkeys-lru" in why
    assert found.status["redis"]["max_bytes"] == 100 * 2**20


async def test_frozen(settings: Settings, own_redis: EmbeddedRedis, tmp_path: Path) -> None:
    """Servers that take connections and say nothing are told from slow ones, in time."""
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
            None,
        ),
        ("redis", "no answer within 15 s", None),
    ]


async def test_sink(topics: Settings, tmp_path: Path) -> None:
    """Where storms go is the worker's word for it, whatever is set where the command is typed."""
    here = topics.model_copy(update={"http_address": f"127.0.0.1:{free_port()}", "sink": "kubernetes"})
    sink = f"directory:{tmp_path / 'storms'}"
    with Workers(here, tmp_path) as workers:
        workers.start(sink=sink)

        async def answered() -> Shown | None:
            found = await shown(here)
            return found if found.status["worker"]["answers"] else None

        assert (await until(answered, what="the worker answers")).status["sink"] == sink
        assert f"sink     {sink}" in (await stormfold(here, "status")).stdout
    assert (await shown(here)).status["sink"] is None


async def test_worker_in_trouble(topics: Settings, tmp_path: Path) -> None:
    """What the worker on this machine says of itself is said too."""
    here = topics.model_copy(update={"http_address": f"127.0.0.1:{free_port()}"})
    with Workers(here, tmp_path) as workers:
        workers.start(**NOWHERE)

        async def told() -> list[str] | None:
            found = await shown(here)
            assert found.code == (1 if found.problems else 0)
            parts = [part for part, _, _ in found.problems]
            return parts if "worker: redis" in parts else None

        assert await until(told, what="the worker's problems") == [
            "worker: close", "worker: emit", "worker: fold", "worker: intake", "worker: redis",
        ]  # fmt: skip
        assert "127.0.0.1:9 (STORMFOLD_KAFKA_BOOTSTRAP_SERVERS)" in (await stormfold(here, "status")).stderr


@asynccontextmanager
async def answering(settings: Settings, says: bytes) -> AsyncIterator[Settings]:
    """Settings under which a program that says this to everybody is where a worker should be."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield settings.model_copy(update={"http_address": f"127.0.0.1:{port}"})


@pytest.mark.parametrize("says", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"220 mail.example ESMTP\r\n"])
async def test_somebody_else_answers(topics: Settings, says: bytes) -> None:
    """Another program at that address is not taken for a worker, nor for problem."""
    async with answering(topics, says) as here:
        found = await shown(here)
    assert found.code == 0 and found.status["worker"]["answers"] is False


async def test_an_answer_for_the_terminal(topics: Settings) -> None:
    """What answers in a worker's place may say what it likes: nothing of it acts on the terminal."""
    evil = "\x1b[2J\u202e\r\n"
    body = json.dumps({"ready": False, "problems": [dict.fromkeys(("component", "problem", "hint", "since"), evil)]})
    async with answering(topics, f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()) as here:
        told = await stormfold(here, "status")
    assert told.returncode == 1 and told.stderr.count(r"\x1b[2J\u202e\r\n") == 4
    assert (told.stdout + told.stderr).replace("\n", "").isprintable()
