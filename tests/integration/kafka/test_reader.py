"""Reading what is there now."""

import asyncio

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from stormfold.errors import ActionRequired, Retry
from stormfold.kafka.client import open_admin
from stormfold.kafka.producer import Producer, ProducerRecord
from stormfold.kafka.reader import open_reader
from stormfold.local.kafka import EmbeddedKafka
from stormfold.settings import Settings

MEGABYTE = 1_000_000


async def test_reading_raises_when_the_broker_goes_away(kafka: EmbeddedKafka, topics: Settings) -> None:
    """It does not wait without end."""
    producer = Producer(topics, "test")
    big = [ProducerRecord(b"k", bytes([n]) * MEGABYTE) for n in range(40)]
    try:
        for record in big:
            await producer.send(topics.alerts_topic, {0: [record]})
    finally:
        await producer.stop()
    read = 0
    try:
        with pytest.raises((Retry, ActionRequired), match="Kafka"):
            async with asyncio.timeout(40), open_reader(topics) as tail:
                async for _ in tail.read(topics.alerts_topic):
                    if not read:
                        await asyncio.to_thread(kafka.kill)
                    read += 1
    finally:
        await asyncio.to_thread(kafka.start)
    assert 0 < read < len(big)


async def test_reading_continues_at_the_beginning_if_retention_deletes_the_next_records(topics: Settings) -> None:
    """It does not skip to the end of the partition."""
    producer = Producer(topics, "test")
    try:
        await producer.send(topics.alerts_topic, {0: [ProducerRecord(b"k", bytes([n])) for n in range(20)]})
    finally:
        await producer.stop()
    async with open_admin(topics) as admin:
        await admin.delete_records({TopicPartition(topics.alerts_topic, 0): RecordsToDelete(before_offset=10)})
    async with asyncio.timeout(40), open_reader(topics) as reader:
        polls = [records async for records in reader.read_batches(topics.alerts_topic, {0: 0}, {0: 20})]
    assert [record.offset for records in polls for record in records] == list(range(10, 20))
