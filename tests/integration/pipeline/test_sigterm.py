"""Workers that are asked to stop: within 10 s, with everything they did committed, whatever is under way or gone."""

import asyncio
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stormfold.config import load
from stormfold.kafka.client import client_options
from stormfold.kafka.committed import read_committed
from stormfold.keyed_record import MARKS
from stormfold.settings import Settings
from tests.integration.pipeline.conftest import Brisk
from tests.support.pipeline import (
    Sent,
    Workers,
    alert,
    assert_balanced,
    batch_model,
    drained,
    essence,
    origins,
    publish,
    read_topic,
    record,
    storms,
)
from tests.support.servers import until

ALERTS = 20_000
SMALL_POLLS = {"max_poll_records": "5"}
STOP_SECONDS = 10.0


async def load_topic(settings: Settings, config_file: Path, past: int) -> dict[str, Any]:
    """Publishes alerts that are over; returns their storms."""
    rng = random.Random(settings.group_prefix)
    alerts = [(past + 7 * n, alert(f"Group{rng.randrange(20)}", pod=f"pod-{rng.randrange(40)}")) for n in range(ALERTS)]
    await publish(settings, [Sent(at, record(one), n % 3) for n, (at, one) in enumerate(alerts)])
    return batch_model(load(config_file), alerts)


async def proven(settings: Settings, config_file: Path, model: dict[str, Any]) -> None:
    """The books balance, the storms are the model's."""
    books = await drained(settings, config_file)
    assert_balanced(books, dead_letters=0)
    assert {name: essence(storm) for name, storm in (await storms(settings)).items()} == model


async def committed(settings: Settings, stage: str, topic: str) -> dict[int, int]:
    """The next offsets that a stage has committed."""
    found = await read_committed(settings, settings.consumer_group(stage), topic)
    return {partition: offset for partition, (offset, _) in found.items()}


async def ends(settings: Settings, topic: str) -> dict[int, int]:
    """Where the three partitions of a topic end."""
    async with AIOKafkaConsumer(**client_options(settings)) as consumer:
        found = await consumer.end_offsets([TopicPartition(topic, partition) for partition in range(3)])
    return {tp.partition: end for tp, end in found.items()}


async def answering(settings: Settings) -> bool:
    """Whether Kafka answers: one that was frozen has to come to first."""
    try:
        return bool(await ends(settings, settings.storms_topic))
    except KafkaError:
        return False


async def begun(settings: Settings, least: int = 1) -> None:
    """Waits until intake has committed so many records."""

    async def read() -> bool:
        return sum((await committed(settings, "intake", settings.alerts_topic)).values()) >= least

    await until(read, what="intake is at work")


async def stopped(worker: subprocess.Popen[bytes], sign: signal.Signals = signal.SIGTERM) -> None:
    """Asks the worker to stop; it does, in time, and without complaint."""
    asked = time.monotonic()
    worker.send_signal(sign)
    code = await asyncio.to_thread(worker.wait, 3 * STOP_SECONDS)
    assert code == 0
    assert time.monotonic() - asked < STOP_SECONDS


async def test_while_alerts_flow(brisk: Brisk, config_file: Path, tmp_path: Path, past: int) -> None:
    """Stopped again and again in the middle: all that was sent on is committed, so nothing is ever sent twice."""
    settings = brisk.settings
    model = await load_topic(settings, config_file, past)
    with Workers(settings, tmp_path, config_file) as workers:
        for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            done = sum((await committed(settings, "intake", settings.alerts_topic)).values())
            worker = workers.start(**SMALL_POLLS)
            await begun(settings, done + 1)
            await stopped(worker, sign)
            reached = await committed(settings, "intake", settings.alerts_topic)
            sent = Counter(partition for partition, _, _ in await origins(settings))
            assert {partition: sent[partition] for partition in range(3)} == reached
            assert sent.total() < ALERTS, "nothing is left to stop in the middle of"

        worker = workers.start()
        await proven(settings, config_file, model)
        await stopped(worker)
        # All that is there was read; only intake's last marks may come behind fold's end.
        assert await committed(settings, "intake", settings.alerts_topic) == await ends(settings, settings.alerts_topic)
        folded = await committed(settings, "fold", settings.keyed_topic)
        keyed = await read_topic(settings, settings.keyed_topic)
        assert {found.value[0] for found in keyed if found.offset >= folded[found.partition]} <= {MARKS}
        published = await ends(settings, settings.storms_topic)

        worker = workers.start()
        before = await ends(settings, settings.keyed_topic)

        async def marked() -> bool:
            return all(
                end > before[partition] for partition, end in (await ends(settings, settings.keyed_topic)).items()
            )

        await until(marked, what="the new worker marks")
        await stopped(worker)
        assert "Traceback" not in workers.logs() and "without a farewell" not in workers.logs()

    found = await origins(settings)
    assert len(found) == len(set(found)) == ALERTS
    assert await ends(settings, settings.storms_topic) == published
    assert sum(published.values()) == len(model)


@pytest.mark.parametrize("how", ["gone", "frozen"])
async def test_without_servers(brisk: Brisk, config_file: Path, tmp_path: Path, past: int, how: str) -> None:
    """Stopped in the middle of things while Kafka and Redis are gone or frozen: in time, and another one goes on."""
    settings = brisk.settings
    servers = (brisk.kafka, brisk.redis)
    model = await load_topic(settings, config_file, past)
    with Workers(settings, tmp_path, config_file) as workers:
        worker = workers.start(**SMALL_POLLS)
        await begun(settings)
        for server in servers:
            if how == "frozen":
                os.kill(server.pid, signal.SIGSTOP)
            else:
                await asyncio.to_thread(server.kill)
        try:
            await stopped(worker)
        finally:
            for server in servers:
                if how == "frozen":
                    os.kill(server.pid, signal.SIGCONT)
                else:
                    await asyncio.to_thread(server.start)
        workers.start()
        await until(lambda: answering(settings), what="Kafka is itself again")
        await proven(settings, config_file, model)


async def test_before_servers_are_there(brisk: Brisk, tmp_path: Path) -> None:
    """A worker that has never found its servers stops like any other."""
    with Workers(brisk.settings, tmp_path) as workers:
        # Nobody listens on the ports of discard and its neighbour.
        worker = workers.start(kafka_bootstrap_servers="127.0.0.1:9", redis_url="redis://127.0.0.1:10/0")
        await until(lambda: "cannot" in workers.logs(), what="it says that something is missing")
        await stopped(worker)
        assert "Traceback" not in workers.logs() and "without a farewell" not in workers.logs()
