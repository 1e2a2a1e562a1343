"""A partition more for `alerts`, while alerts come in."""

import time
from pathlib import Path

from aiokafka.admin import NewPartitions

from app.config import load
from app.kafka.client import open_admin
from app.keyed import MARKS, decode_marks
from app.settings import Settings
from tests.conftest import PARTITIONS
from tests.support.pipeline import (
    Sent,
    Workers,
    alert,
    drained,
    essence,
    keyed_model,
    publish,
    read_topic,
    record,
    storms,
)
from tests.support.servers import until


async def test_partition_added(topics: Settings, tmp_path: Path) -> None:
    """What the new partition gets at once is read within the grace, so none of it is late; from its first mark on it
    counts for the horizon."""
    config = tmp_path / "stormfold.yaml"
    config.write_text("windows: {gap: 2s, grace: 10s, slice: 10s}\n")

    async def happen(name: str, partition: int) -> None:
        now = time.time_ns() // 1_000_000
        await publish(topics, [Sent(now, record(alert(name, pod=f"pod-{n}")), partition) for n in range(30)])

    async def begun() -> bool:
        return any(found.value[0] == MARKS for found in await read_topic(topics, topics.keyed_topic))

    with Workers(topics, tmp_path, config) as workers:
        workers.start()
        await happen("Old", 0)
        await until(begun, what="marks")
        async with open_admin(topics) as admin:
            await admin.create_partitions({topics.alerts_topic: NewPartitions(PARTITIONS + 1)})
        await happen("New", PARTITIONS)
        books = await drained(topics, config)
        assert books.balanced and books.open == 0 and books.alerts == 60, books
    published = await storms(topics)
    assert not any(storm.late for storm in published.values())
    assert {name: essence(storm) for name, storm in published.items()} == await keyed_model(topics, load(config))
    keyed = [found.value for found in await read_topic(topics, topics.keyed_topic)]
    marks = [decode_marks(value) for value in keyed if value[0] == MARKS]
    assert any(PARTITIONS in mark.progress for mark in marks)
    assert all(max(mark.progress) < mark.partitions for mark in marks)
