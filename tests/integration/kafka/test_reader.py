"""Reading what is there now."""

import asyncio

import pytest

from stormfold.errors import ActionRequired, Retry
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
