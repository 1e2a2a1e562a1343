"""The batch consumer on a real broker: how many records a batch has, and how many batches are in memory."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from stormfold.health import Health
from stormfold.kafka.batch import Batch
from stormfold.kafka.consumer import BatchConsumer
from stormfold.kafka.group_member import FETCH_WAIT_MS, GroupMember
from stormfold.positions import Position
from stormfold.settings import Settings
from tests.support.alerts import Sent
from tests.support.pipeline import publish
from tests.support.servers import until

RECORDS = 30


class Recorder:
    """A stage that keeps the offsets of each batch. All records are in partition 0."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.released = asyncio.Event()
        """Until it is set, the first batch with records is in progress."""
        self.released.set()

    async def start_positions(self, _consumer: Any, partitions: set[int]) -> Mapping[int, Position | None]:
        return dict.fromkeys(partitions)

    async def process(self, batch: Batch) -> None:
        if offsets := [record.offset for records in batch.records.values() for record in records]:
            await self.released.wait()
            self.batches.append(offsets)

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


async def publish_from(settings: Settings, begin: int, end: int) -> None:
    """Publishes records with these numbers, which are also their offsets."""
    await publish(settings, [Sent(number, str(number).encode(), 0) for number in range(begin, end)])


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
