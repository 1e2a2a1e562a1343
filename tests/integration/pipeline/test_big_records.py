"""Records of hundreds and thousands of alerts: each alert is counted once, also when workers die in the middle."""

import asyncio
import random
import signal
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from stormfold.config import Config
from stormfold.kafka.client import client_options
from stormfold.kafka.committed import read_committed
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
    record,
    storms,
)
from tests.support.servers import until

MANY = [(500, 6), (5_000, 2)] * 4
"""(alerts in a record, records), one after the other."""
TRIES = 10
"""Looks at a worker that stands still before it is killed even if all that it has sent is committed."""


def crowd(rng: random.Random, size: int) -> list[dict[str, Any]]:
    """Alerts of a few groups, some of them resolved, some of them the same."""
    return [
        alert(f"Group{rng.randrange(8)}", pod=f"pod-{rng.randrange(300)}", resolved=rng.random() < 0.2)
        for _ in range(size)
    ]


def webhook(alerts: list[dict[str, Any]]) -> bytes:
    """The alerts as one Alertmanager notification."""
    return msgspec.json.encode({"version": "4", "groupKey": "{}", "status": "firing", "alerts": alerts})


async def length(settings: Settings, topic: str) -> int:
    """How many records were written to the topic."""
    async with AIOKafkaConsumer(**client_options(settings)) as consumer:
        ends = await consumer.end_offsets([TopicPartition(topic, partition) for partition in range(3)])
    return sum(ends.values())


async def uncommitted(settings: Settings) -> bool:
    """Whether something was sent of records that intake has not committed."""
    committed = await read_committed(settings, settings.consumer_group("intake"), settings.alerts_topic)
    ends = {partition: offset for partition, (offset, _) in committed.items()}
    return any(offset >= ends.get(partition, 0) for partition, offset, _ in await origins(settings))


async def proven(settings: Settings, alerts: list[tuple[int, dict[str, Any]]], dead: int = 0) -> None:
    """The books balance, and the storms are those of one plain computation."""
    books = await drained(settings, seconds=90)
    assert_balanced(books, dead_letters=dead)
    found = {name: essence(storm) for name, storm in (await storms(settings)).items()}
    assert found == batch_model(Config(), alerts)


async def test_each_is_counted(topics: Settings, workers: Workers, past: int) -> None:
    """Records of 500, 5,000 and 30,000 alerts (10 MB): each alert is counted. With a wrong one the record is dead."""
    rng = random.Random(1)
    big = [one | {"annotations": {"text": "x" * 200}} for one in crowd(rng, 30_000)]
    assert 10_000_000 < len(webhook(big)) < 12_000_000
    whole = [(past, crowd(rng, 500)), (past + 1, crowd(rng, 5_000)), (past + 2, big), (past + 3, crowd(rng, 1))]
    wrong = [*crowd(rng, 4_999), {"labels": {"alertname": 1}}]
    await publish(
        topics,
        [
            Sent(past, webhook(wrong), 2),
            *(Sent(time, webhook(alerts), n % 3) for n, (time, alerts) in enumerate(whole)),
            Sent(past + 4, record(*wrong), 0),
        ],
    )

    workers.start()
    await proven(topics, [(time, one) for time, alerts in whole for one in alerts], dead=2)


async def test_killed_in_the_middle(brisk: Brisk, tmp_path: Any, past: int) -> None:
    """Workers killed with -9 while such records are under way: what was sent of them is not counted again."""
    settings = brisk.settings
    rng = random.Random(2)
    sizes = [size for size, times in MANY for _ in range(times)]
    records = [(past + 500 * n, n % 3, crowd(rng, size)) for n, size in enumerate(sizes)]
    await publish(settings, [Sent(time, webhook(alerts), partition) for time, partition, alerts in records])

    with Workers(settings, tmp_path) as workers:
        for _ in range(3):
            before = await length(settings, settings.keyed_topic)
            worker = workers.start(max_poll_records="1")

            async def sending(before: int = before) -> bool:
                # Marks alone do not make it so much longer.
                return await length(settings, settings.keyed_topic) >= before + 100

            await until(sending, what="the worker is at it")
            for _ in range(TRIES):
                worker.send_signal(signal.SIGSTOP)
                if await uncommitted(settings):
                    break
                worker.send_signal(signal.SIGCONT)
                await asyncio.sleep(0.03)
            worker.kill()
            worker.wait()
        workers.start()
        await proven(settings, [(time, one) for time, _, alerts in records for one in alerts])

    sent = await origins(settings)
    assert len(set(sent)) == sum(sizes)
    assert len(sent) > len(set(sent)), "no kill has struck between a record and its commit"


async def test_packed_a_hundredfold(brisk: Brisk, tmp_path: Any, past: int) -> None:
    """A hundred thousand alerts in records of 500, packed: far more than can be read within the session's two seconds.
    Intake takes them in parts, stays a member of its group and alive, and sends hardly any twice."""
    settings = brisk.settings
    crowds = [[alert(f"Group{n % 107}", pod=f"pod-{500 * n + one}") for one in range(500)] for n in range(200)]
    sent = [Sent(past + n, webhook(alerts), n % 3) for n, alerts in enumerate(crowds)]
    assert sum(len(one.value or b"") for one in sent) > 10_000_000
    await publish(settings, sent, "zstd")

    with Workers(settings, tmp_path) as workers:
        workers.start()
        await proven(settings, [(past + n, one) for n, alerts in enumerate(crowds) for one in alerts])
    keyed = await origins(settings)
    assert 100_000 == len(set(keyed)) <= len(keyed) < 150_000
