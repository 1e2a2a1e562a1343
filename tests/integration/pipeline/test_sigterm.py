"""Workers that are asked to stop: they end within 10 s with all their work committed, in any state of the servers."""

import asyncio
import os
import random
import signal
from collections import Counter

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stormfold.kafka.client import client_options
from stormfold.kafka.committed import read_committed
from stormfold.keyed_record import MARKS
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings
from tests.support.alerts import Sent, alert, record
from tests.support.model import Counts
from tests.support.pipeline import Pipeline
from tests.support.servers import PARTITIONS, until
from tests.support.workers import stop

ALERTS = 20_000
SMALL_POLLS = {"max_poll_records": "5"}


async def publish_alerts(pipeline: Pipeline, past: int) -> dict[str, Counts]:
    """Publishes alerts of sessions that are over; returns the aggregates that they must make."""
    rng = random.Random(pipeline.settings.group_prefix)
    alerts = [(past + 7 * n, alert(f"Group{rng.randrange(20)}", pod=f"pod-{rng.randrange(40)}")) for n in range(ALERTS)]
    await pipeline.publish(Sent(at, record(one), n % PARTITIONS) for n, (at, one) in enumerate(alerts))
    return pipeline.model(alerts)


async def committed(settings: Settings, stage: str, topic: str) -> dict[int, int]:
    """Returns the next offsets that a stage has committed."""
    found = await read_committed(settings, settings.consumer_group(stage), topic)
    return {partition: offset for partition, (offset, _) in found.items()}


async def read_by_intake(settings: Settings) -> dict[int, int]:
    """Returns the next offsets that intake has committed."""
    return await committed(settings, "intake", settings.alerts_topic)


async def ends(settings: Settings, topic: str) -> dict[int, int]:
    """Returns the end offsets of a topic."""
    async with AIOKafkaConsumer(**client_options(settings)) as consumer:
        found = await consumer.end_offsets([TopicPartition(topic, partition) for partition in range(PARTITIONS)])
    return {tp.partition: end for tp, end in found.items()}


async def kafka_answers(settings: Settings) -> bool:
    """Returns whether Kafka answers; after a freeze it needs some time."""
    try:
        return bool(await ends(settings, settings.storms_topic))
    except KafkaError:
        return False


async def begun(settings: Settings, minimum: int = 1) -> None:
    """Waits until intake has committed at least this many records."""

    async def read() -> bool:
        return sum((await read_by_intake(settings)).values()) >= minimum

    await until(read, what=f"intake has committed {minimum} records")


def assert_clean_logs(pipeline: Pipeline) -> None:
    """Asserts that no worker logged a traceback or an exit without leaving its group."""
    assert "Traceback" not in pipeline.logs() and "without a clean shutdown" not in pipeline.logs()


async def test_a_worker_stopped_while_alerts_flow_has_committed_all_that_it_sent(
    own_pipeline: Pipeline, past: int
) -> None:
    """Stopped three times in the middle: everything sent is committed, so that nothing is sent twice."""
    own_pipeline.configure()
    settings = own_pipeline.settings
    model = await publish_alerts(own_pipeline, past)
    for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        done = sum((await read_by_intake(settings)).values())
        worker = own_pipeline.start(**SMALL_POLLS)
        await begun(settings, done + 1)
        await stop(worker, sign)
        reached = await read_by_intake(settings)
        sent = Counter(partition for partition, _, _ in await own_pipeline.source_positions())
        assert {partition: sent[partition] for partition in range(PARTITIONS)} == reached
        assert sent.total() < ALERTS, "nothing is left to stop in the middle of"

    worker = own_pipeline.start()
    await own_pipeline.assert_aggregates(model, dead_letters=0)
    await stop(worker)
    # Everything is read, except that intake's last watermark records may follow the end of fold.
    assert await read_by_intake(settings) == await ends(settings, settings.alerts_topic)
    folded = await committed(settings, "fold", settings.keyed_topic)
    keyed = await own_pipeline.read(settings.keyed_topic)
    assert {found.value[0] for found in keyed if found.offset >= folded[found.partition]} <= {MARKS}
    published = await ends(settings, settings.storms_topic)

    worker = own_pipeline.start()
    before = await ends(settings, settings.keyed_topic)

    async def marked() -> bool:
        return all(end > before[partition] for partition, end in (await ends(settings, settings.keyed_topic)).items())

    await until(marked, what="the new worker writes watermark records")
    await stop(worker)
    assert_clean_logs(own_pipeline)

    found = await own_pipeline.source_positions()
    assert len(found) == len(set(found)) == ALERTS
    assert await ends(settings, settings.storms_topic) == published
    assert sum(published.values()) == len(model)


@pytest.mark.parametrize("how", ["gone", "frozen"])
async def test_a_worker_stops_in_time_without_its_servers_and_another_one_finishes_its_work(
    own_pipeline: Pipeline, own_kafka: EmbeddedKafka, own_redis: EmbeddedRedis, past: int, how: str
) -> None:
    """The worker is stopped in the middle of its work while Kafka and Redis are gone or frozen."""
    own_pipeline.configure()
    settings = own_pipeline.settings
    servers = (own_kafka, own_redis)
    model = await publish_alerts(own_pipeline, past)
    worker = own_pipeline.start(**SMALL_POLLS)
    await begun(settings)
    for server in servers:
        if how == "frozen":
            os.kill(server.pid, signal.SIGSTOP)
        else:
            await asyncio.to_thread(server.kill)
    try:
        await stop(worker)
    finally:
        for server in servers:
            if how == "frozen":
                os.kill(server.pid, signal.SIGCONT)
            else:
                await asyncio.to_thread(server.start)
    own_pipeline.start()
    await until(lambda: kafka_answers(settings), what="Kafka answers again")
    await own_pipeline.assert_aggregates(model, dead_letters=0)


async def test_a_worker_that_never_found_its_servers_stops_cleanly(own_pipeline: Pipeline) -> None:
    # No server listens on port 9 (discard) and the port after it.
    worker = own_pipeline.start(kafka_bootstrap_servers="127.0.0.1:9", redis_url="redis://127.0.0.1:10/0")
    await until(lambda: "cannot" in own_pipeline.logs(), what="the worker logs that a server is missing")
    await stop(worker)
    assert_clean_logs(own_pipeline)
