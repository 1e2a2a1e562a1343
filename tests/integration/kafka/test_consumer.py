"""The batch consumer on a real broker: how many records a batch has."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from stormfold.health import Health
from stormfold.kafka.batch import Batch
from stormfold.kafka.consumer import BatchConsumer
from stormfold.kafka.group_member import GroupMember
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

    async def start_positions(self, _consumer: Any, partitions: set[int]) -> Mapping[int, Position | None]:
        return dict.fromkeys(partitions)

    async def process(self, batch: Batch) -> None:
        if offsets := [record.offset for records in batch.records.values() for record in records]:
            self.batches.append(offsets)

    async def commit(self) -> None: ...

    async def stop(self) -> None: ...


@asynccontextmanager
async def consuming(settings: Settings, stage: Recorder, linger: float) -> AsyncIterator[GroupMember]:
    """Runs a consumer of `alerts` whose batches have at most `RECORDS` records."""
    small = settings.model_copy(update={"max_poll_records": RECORDS})
    member = GroupMember("intake", settings.alerts_topic, small, Health())
    member.linger = linger

    async def put(batch: Batch) -> None:
        await consumer.process(batch)

    consumer: BatchConsumer = BatchConsumer(member, stage, put)
    await consumer.start()
    try:
        await until(lambda: bool(member.polled), what="partitions are read")
        yield member
    finally:
        await consumer.stop()


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
