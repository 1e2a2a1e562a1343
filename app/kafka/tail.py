"""Reads topics from outside any consumer group: the newest records, all of them, and what comes after."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from app.kafka.client import client_options, explain
from app.kafka.topics import partitions_of
from app.settings import Settings


class Tail:
    """A consumer that commits nothing. Raises `Stop` for a topic that does not exist."""

    def __init__(self, settings: Settings, consumer: AIOKafkaConsumer) -> None:
        self._settings = settings
        self._consumer = consumer
        self._partitions: dict[str, list[TopicPartition]] = {}

    async def begins(self, topic: str) -> dict[int, int]:
        """Offset of each partition's first record."""
        found = await self._consumer.beginning_offsets(await self._known(topic))
        return {tp.partition: offset for tp, offset in found.items()}

    async def ends(self, topic: str) -> dict[int, int]:
        """Offset after each partition's last record."""
        found = await self._consumer.end_offsets(await self._known(topic))
        return {tp.partition: offset for tp, offset in found.items()}

    async def read(self, topic: str, most: int | None = None) -> AsyncIterator[ConsumerRecord]:
        """What is there now: of each partition the newest `most` records (None: all), in order of offsets."""
        begins, ends = await self.begins(topic), await self.ends(topic)
        tps = await self._known(topic)
        self._consumer.assign(tps)
        for tp in tps:
            begin, end = begins[tp.partition], ends[tp.partition]
            self._consumer.seek(tp, begin if most is None else max(begin, end - most))
        while left := [tp for tp in tps if await self._consumer.position(tp) < ends[tp.partition]]:
            for records in (await self._consumer.getmany(*left, timeout_ms=1000, max_records=5000)).values():
                for record in records:
                    yield record

    async def follow(self) -> AsyncIterator[ConsumerRecord]:
        """What comes after the last `read`, for ever."""
        async for record in self._consumer:
            yield record

    async def _known(self, topic: str) -> list[TopicPartition]:
        if topic not in self._partitions:
            found = await partitions_of(self._settings, topic)
            self._partitions[topic] = [TopicPartition(topic, partition) for partition in found]
        return self._partitions[topic]


@asynccontextmanager
async def open_tail(settings: Settings) -> AsyncIterator[Tail]:
    """A started tail. What Kafka refuses inside becomes `Stop` or `Retry`."""
    consumer = AIOKafkaConsumer(
        **client_options(settings),
        enable_auto_commit=False,
        isolation_level="read_committed",
        max_partition_fetch_bytes=8 * 1024 * 1024,
    )
    try:
        await consumer.start()
        yield Tail(settings, consumer)
    except (KafkaError, OSError) as error:
        raise await explain(error, settings) from error
    finally:
        await consumer.stop()
