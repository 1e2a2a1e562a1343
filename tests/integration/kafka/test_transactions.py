"""A producer that leaves a transaction open: nothing after its first record can be read."""

from pathlib import Path
from typing import Any

import aiohttp
from aiokafka import AIOKafkaProducer

from stormfold.kafka.client import client_options
from stormfold.local.process import HOST, free_port
from stormfold.settings import Settings
from tests.integration.cli.test_status import shown
from tests.integration.security.guarded import changed, ready
from tests.support.alerts import alert, now, record, spread
from tests.support.cli import stormfold
from tests.support.pipeline import assert_balanced, drained, publish
from tests.support.servers import PARTITIONS, until
from tests.support.workers import Workers

STABLE = 10
"""Offset of the first record of the transaction: those before it can be read."""


async def warnings(settings: Settings) -> list[dict[str, Any]]:
    """The warnings of the worker's /readyz."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{settings.http_address}/readyz") as answer,
    ):
        found: list[dict[str, Any]] = (await answer.json())["warnings"]
        return found


async def exported(settings: Settings) -> str:
    """The worker's metrics."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{settings.http_address}/metrics") as answer:
        return await answer.text()


async def test_an_open_transaction_is_reported_with_its_partition_and_offset(
    topics: Settings, config_file: Path, tmp_path: Path
) -> None:
    """The lag to the last stable offset and the records after it are shown apart; nothing is lost when it ends."""
    settings = changed(topics, http_address=f"{HOST}:{free_port()}")
    place = f"{settings.alerts_topic}-1 from offset {STABLE}"
    await publish(settings, spread("Before", STABLE * PARTITIONS, now(), step=0, partitions=PARTITIONS))
    producer = AIOKafkaProducer(
        **client_options(settings), transactional_id=settings.group_prefix, transaction_timeout_ms=600_000
    )
    async with producer:
        await producer.begin_transaction()
        for number in range(4):
            value = record(alert("Open", pod=f"pod-{number}"))
            await producer.send_and_wait(settings.alerts_topic, value, partition=1, timestamp_ms=now())
        await publish(settings, spread("After", 3 * PARTITIONS, now(), step=0, partitions=PARTITIONS))

        found = await shown(settings)
        rows = [row for row in found.status["lag"] if row["stage"] == "intake"]
        unstable = {row["partition"]: row["unstable_records"] for row in rows}
        assert found.records("intake") == {0: 13, 1: 10, 2: 13} and unstable == {0: 0, 1: 7, 2: 0}
        (one,) = found.status["warnings"]
        assert found.code == 0 and one["component"] == "intake" and place in one["problem"]
        with Workers(settings, tmp_path, config_file) as workers:
            workers.start()
            await ready(settings)
            (warning,) = await until(lambda: warnings(settings), 60, "the worker reports the transaction")
            assert warning["component"] == settings.alerts_topic and place in warning["problem"]
            assert f"--topic {settings.alerts_topic} --partition 1 --start-offset {STABLE}" in warning["hint"]
            lines = await exported(settings)
            assert 'stormfold_lag_unstable_records{partition="1",stage="intake"} 7.0' in lines
            assert 'stormfold_lag_records{partition="1",stage="intake"} 0.0' in lines
            answer = await stormfold(settings, "status")
            assert answer.returncode == 0 and place in answer.stderr and f"--start-offset {STABLE}" in answer.stderr
            assert "no lag; 7 records in open transactions, by partition 1: 7" in answer.stdout
            assert place in workers.logs()

            await producer.commit_transaction()
            assert_balanced(await drained(settings, config_file))

            async def over() -> bool:
                return await warnings(settings) == []

            await until(over, what="the warning is over")
    assert (await shown(settings)).status["warnings"] == []
