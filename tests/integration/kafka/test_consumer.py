"""The batch consumer on a real broker: how many records a batch has, and how many batches are in memory."""

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaError

from stormfold.health import Health
from stormfold.kafka.batch import Batch
from stormfold.kafka.consumer import BatchConsumer
from stormfold.kafka.group_member import FETCH_WAIT_MS, GroupMember
from stormfold.local.kafka import EmbeddedKafka
from stormfold.positions import Position
from stormfold.settings import Settings
from tests.support.alerts import Sent
from tests.support.pipeline import publish
from tests.support.servers import until

RECORDS = 30


class Recorder:
    """A stage that keeps the offsets of each batch, and of each partition."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.offsets: defaultdict[int, list[int]] = defaultdict(list)
        self.released = asyncio.Event()
        """Until it is set, the first batch with records is in progress."""
        self.released.set()

    async def start_positions(self, _consumer: Any, partitions: set[int]) -> Mapping[int, Position | None]:
        return {p: Position(self.offsets[p][-1] + 1) if p in self.offsets else None for p in partitions}

    async def process(self, batch: Batch) -> None:
        if offsets := [record.offset for records in batch.records.values() for record in records]:
            await self.released.wait()
            self.batches.append(offsets)
            for partition, records in batch.records.items():
                self.offsets[partition] += [record.offset for record in records]

    async def commit(self) -> None: ...

    async def stop(self) -> None: ...


@asynccontextmanager
async def consuming(
    settings: Settings, stage: Recorder, linger: float, event_time: int = 0
) -> AsyncIterator[GroupMember]:
    """Runs a consumer of `alerts` whose batches have at most `RECORDS` records, for a stage that is far behind."""
    small = settings.model_copy(update={"max_poll_records": RECORDS})
    member = GroupMember("intake", settings.alerts_topic, small, Health())
    member.linger = linger
    batches: asyncio.Queue[Batch] = asyncio.Queue()
    consumer = BatchConsumer(member, stage, batches.put)

    async def process() -> None:
        while True:
            await consumer.process(await batches.get())

    await consumer.start()
    processing = asyncio.create_task(process())
    try:
        await until(lambda: bool(member.polled), what="partitions are read")
        member.event_times = {0: event_time}
        yield member
    finally:
        await consumer.stop()
        processing.cancel()


async def publish_from(settings: Settings, begin: int, end: int, partition: int = 0) -> None:
    """Publishes records with these numbers, which are also their offsets."""
    await publish(settings, [Sent(number, str(number).encode(), partition) for number in range(begin, end)])


async def until_polled(member: GroupMember, offset: int) -> None:
    """Waits until the client has returned all records before an offset, also for a batch that still waits."""
    (tp,) = member.topic_partitions({0})

    async def polled() -> bool:
        return bool(await member.client.position(tp) == offset)

    await until(polled)


async def test_a_batch_waits_for_more_records_until_it_is_full(topics: Settings) -> None:
    stage = Recorder()
    async with consuming(topics, stage, linger=60.0) as member:
        for begin in range(0, RECORDS, 10):
            assert stage.batches == []
            await publish_from(topics, begin, begin + 10)
            await until_polled(member, begin + 10)
        await until(lambda: stage.batches == [list(range(RECORDS))])


async def test_a_batch_waits_no_longer_than_the_stage_lingers(topics: Settings) -> None:
    stage = Recorder()
    async with consuming(topics, stage, linger=0.5):
        await publish_from(topics, 0, 10)
        await until(lambda: [offset for batch in stage.batches for offset in batch] == list(range(10)))


async def test_a_rewind_ends_the_wait_and_each_record_is_processed_once(topics: Settings) -> None:
    stage = Recorder()
    async with consuming(topics, stage, linger=60.0) as member:
        await publish_from(topics, 0, 10)
        await until_polled(member, 10)
        member.rewind()
        await publish_from(topics, 10, RECORDS)
        await until(lambda: stage.batches == [list(range(RECORDS))])


async def test_a_batch_with_enough_bytes_does_not_wait(topics: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stormfold.kafka.consumer.POLL_BYTES", 5)
    stage = Recorder()
    async with consuming(topics, stage, linger=60.0):
        await publish_from(topics, 0, 10)
        await until(lambda: stage.offsets == {0: list(range(10))})


def flip_last_byte(path: Path) -> None:
    with path.open("rb+") as log:
        end = log.seek(-1, os.SEEK_END)
        (byte,) = log.read(1)
        log.seek(end)
        log.write(bytes([byte ^ 1]))


async def test_a_corrupt_batch_costs_no_record_of_other_partitions(
    topics: Settings, kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call of the client that ends with this error has already taken the records of partitions before it."""
    stage, held, failed = Recorder(), asyncio.Event(), asyncio.Event()
    log = kafka.data_dir / "data" / f"{topics.alerts_topic}-1" / f"{0:020}.log"
    async with consuming(topics, stage, linger=60.0) as member:
        getmany, fetched = member.client.getmany, member.client._fetcher._records
        (corrupt,) = member.topic_partitions({1})

        async def getmany_later(**options: Any) -> Any:
            """Once `held`, takes all partitions at once; after the error the log is right again."""
            if held.is_set() and not failed.is_set():
                await until(lambda: len(fetched) == 3)
            try:
                return await getmany(**options)
            except KafkaError:
                flip_last_byte(log)
                failed.set()
                raise

        monkeypatch.setattr(member.client, "getmany", getmany_later)
        await publish_from(topics, 0, 5)
        await until_polled(member, 5)
        held.set()
        # It ends the call in progress.
        await publish_from(topics, 5, 6)
        await until_polled(member, 6)
        member.client.pause(corrupt)
        await publish_from(topics, 6, 10)
        await publish_from(topics, 0, 10, 2)
        await until(lambda: len(fetched) == 2)
        await publish_from(topics, 0, 10, 1)
        flip_last_byte(log)
        member.client.resume(corrupt)
        await until(failed.is_set)
        await publish_from(topics, 10, 15)
        await publish_from(topics, 10, 15, 2)
        await until(lambda: stage.offsets == {0: [*range(15)], 1: [*range(10)], 2: [*range(15)]})


async def test_a_stage_that_is_current_does_not_wait(topics: Settings) -> None:
    stage, later = Recorder(), int(time.time() * 1000) + 3_600_000
    async with consuming(topics, stage, linger=60.0, event_time=later):
        await publish_from(topics, 0, 10)
        await until(lambda: [offset for batch in stage.batches for offset in batch] == list(range(10)))


async def test_one_batch_is_read_while_another_is_in_progress(topics: Settings) -> None:
    """More of them would only take memory."""
    stage = Recorder()
    async with consuming(topics, stage, linger=60.0) as member:
        stage.released.clear()
        await publish_from(topics, 0, 5 * RECORDS)
        await until_polled(member, 2 * RECORDS)
        await asyncio.sleep(3 * FETCH_WAIT_MS / 1000)
        await until_polled(member, 2 * RECORDS)
        stage.released.set()
        await until(lambda: sum(map(len, stage.batches)) == 5 * RECORDS)
