"""Retention deletes records before a frozen worker has read them: they are counted, and no others are missing."""

import asyncio
import re
import signal
from pathlib import Path
from subprocess import Popen
from urllib.request import urlopen

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from redis.asyncio import Redis

from stormfold.audit import AuditReport
from stormfold.kafka.client import open_admin
from stormfold.kafka.reader import open_reader
from stormfold.keyed_record import ALERT
from stormfold.local.process import HOST, free_port
from stormfold.settings import Settings
from tests.integration.pipeline.test_recreated import alerts_of
from tests.support.alerts import now, spread
from tests.support.pipeline import assert_balanced, books, drained, publish, read_topic, source_positions
from tests.support.servers import until
from tests.support.workers import Workers

OLD, BETWEEN, NEW, NEWER = 30, 30, 300, 30
LEFT = 5
"""Records that are left in each partition."""


async def delete_records(settings: Settings, topic: str) -> dict[tuple[int, int], bytes]:
    """Deletes all but the newest records. Returns the values of all, by partition and offset."""
    async with open_reader(settings) as tail:
        ends = await tail.end_offsets(topic)
    found = {(record.partition, record.offset): record.value for record in await read_topic(settings, topic)}
    before = {TopicPartition(topic, p): RecordsToDelete(before_offset=end - LEFT) for p, end in ends.items()}
    async with open_admin(settings) as admin:
        await admin.delete_records(before)
    return found


async def lost(address: str) -> dict[int, int]:
    """Lost records by partition, from the metrics of a worker that runs one stage."""
    with await asyncio.to_thread(urlopen, f"http://{address}/metrics") as answer:
        text = answer.read().decode()
    found = re.findall(r'^stormfold_lost_records_total\{partition="(\d+)",stage="\w+"\} (\S+)$', text, re.MULTILINE)
    return {int(partition): int(float(records)) for partition, records in found}


async def ended(worker: Popen[bytes]) -> None:
    """Ends a worker."""
    worker.terminate()
    assert await asyncio.to_thread(worker.wait, 30) == 0


async def settled(settings: Settings, config: Path) -> AuditReport | None:
    """The audit report, once the newest alerts are published in storms and nothing is open."""
    if await alerts_of(settings, "Newer") < NEWER:
        return None
    report = await books(settings, config, 10)
    return report if report.open == report.unread == 0 else None


@pytest.mark.parametrize("stage", ["intake", "fold"])
async def test_records_deleted_while_a_worker_is_frozen_are_counted_as_lost(
    topics: Settings, tmp_path: Path, config_file: Path, stage: str
) -> None:
    """The log and a metric have their number, and the audit misses exactly these."""
    topic = topics.alerts_topic if stage == "intake" else topics.keyed_topic
    address = f"{HOST}:{free_port()}"
    with Workers(topics, tmp_path, config_file) as workers:
        workers.start(stages=",".join({"intake", "fold", "close", "emit"} - {stage}))
        frozen = workers.start(stages=stage, http_address=address)
        await publish(topics, spread("Old", OLD, now()))
        assert_balanced(await drained(topics, config_file))
        assert await lost(address) == {}
        frozen.send_signal(signal.SIGSTOP)
        # The fetch that is pending is answered with these; the worker has none of those that follow.
        await publish(topics, spread("Between", BETWEEN, now()))
        await publish(topics, spread("New", NEW, now()))
        if stage == "fold":

            async def keyed() -> bool:
                return len(await source_positions(topics)) == OLD + BETWEEN + NEW

            await until(keyed, what="all alerts are keyed")
        was = await delete_records(topics, topic)
        frozen.send_signal(signal.SIGCONT)
        await publish(topics, spread("Newer", NEWER, now()))
        end = await until(lambda: settled(topics, config_file), seconds=60, what="the newest alerts are counted")
        lost_now = await lost(address)
        async with open_reader(topics) as tail:
            begins = await tail.beginning_offsets(topic)
        gone = [was[p, offset] for p, begin in begins.items() for offset in range(begin - lost_now[p], begin)]
        missing = len([value for value in gone if stage == "intake" or value[0] == ALERT])
        assert missing > NEW / 2
        assert end.expired + end.difference == missing
        assert end.aggregated == OLD + BETWEEN + NEW + NEWER - missing
        assert await alerts_of(topics, "Old") == OLD
        log = workers.logs()
        for partition, records in lost_now.items():
            assert f'"partition": {partition}, "lost": {records}, "beginning": {begins[partition]}' in log


async def test_only_deleted_records_are_missing_after_redis_lost_its_state(
    topics: Settings, redis: Redis, tmp_path: Path
) -> None:
    """The audit reports their number."""
    config = tmp_path / "long_gap.yaml"
    config.write_text("windows: {gap: 10s, grace: 1s, slice: 20s}\n")
    await publish(topics, spread("Old", OLD, now() - 3_600_000))
    with Workers(topics, tmp_path, config) as workers:
        folding = workers.start(stages="intake,fold")
        closing = workers.start(stages="close,correlate,emit")
        assert_balanced(await drained(topics, config))
        await ended(closing)
        await publish(topics, spread("New", NEW, now()))

        async def folded() -> bool:
            found = await books(topics, config, 0)
            return found.open == NEW

        await until(folded, what="all alerts are folded and open")
        await ended(folding)
        was = await delete_records(topics, topics.keyed_topic)
        await redis.flushdb()
        workers.start()
        await publish(topics, spread("Newer", NEWER, now()))
        end = await until(lambda: settled(topics, config), seconds=60, what="the newest alerts are counted")
        async with open_reader(topics) as tail:
            begins = await tail.beginning_offsets(topics.keyed_topic)
    gone = sum(value[0] == ALERT and offset < begins[p] for (p, offset), value in was.items()) - OLD
    assert gone > NEW / 2
    assert end.difference == gone
    assert await alerts_of(topics, "Old") == OLD
    assert await alerts_of(topics, "New") == NEW - gone
