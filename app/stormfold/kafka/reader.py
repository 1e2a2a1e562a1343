"""Reads topics outside any consumer group: all records until now, single records, and new records as they arrive."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from stormfold.kafka._patches import Consumer
from stormfold.kafka.client import client_options, diagnose, start_client
from stormfold.kafka.topics import partitions_of
from stormfold.settings import Settings

FIRST_READ = 100
"""Records of each partition that `newest` reads first: one fetch returns about as many."""
STOP_SECONDS = 3.0
"""Longest that stopping a consumer may take."""


class TopicReader:
    """Reads offsets and records; commits nothing. Raises `ActionRequired` for a topic that does not exist."""

    def __init__(self, settings: Settings, consumer: Consumer) -> None:
        self._settings = settings
        self._consumer = consumer
        self._partitions: dict[str, list[TopicPartition]] = {}

    async def beginning_offsets(self, topic: str) -> dict[int, int]:
        """Offset of each partition's first record."""
        found = await self._consumer.beginning_offsets(await self._topic_partitions(topic))
        return {tp.partition: offset for tp, offset in found.items()}

    async def end_offsets(self, topic: str) -> dict[int, int]:
        """Offset after each partition's last record that can be read."""
        found = await self._consumer.end_offsets(await self._topic_partitions(topic))
        return {tp.partition: offset for tp, offset in found.items()}

    async def log_end_offsets(self, topic: str) -> dict[int, int]:
        """Offset after each partition's last record, also if this waits for an open transaction."""
        found = await self._consumer.log_end_offsets(await self._topic_partitions(topic))
        return {tp.partition: offset for tp, offset in found.items()}

    async def offsets_for_time(self, topic: str, time: int) -> dict[int, int]:
        """Offset of each partition's first record at `time` (a timestamp in ms) or later; its end if there is none."""
        ends = await self.end_offsets(topic)
        times = dict.fromkeys(await self._topic_partitions(topic), max(0, time))
        found = await self._consumer.offsets_for_times(times)
        return ends | {tp.partition: at.offset for tp, at in found.items() if at is not None}

    async def read(
        self, topic: str, limit: int | None = None, *, follow: bool = False
    ) -> AsyncIterator[ConsumerRecord]:
        """All records until now, or of each partition the newest `limit`, in order of offsets.

        With `follow`, new records too as they arrive, without end.
        """
        begins, ends = await self.beginning_offsets(topic), await self.end_offsets(topic)
        starts = {p: begins[p] if limit is None else max(begins[p], ends[p] - limit) for p in ends}
        async with aclosing(self.read_batches(topic, starts, None if follow else ends)) as polls:
            async for records in polls:
                for record in records:
                    yield record

    async def newest(
        self, topic: str, limit: int, name: Callable[[ConsumerRecord], str | None]
    ) -> list[ConsumerRecord]:
        """The newest record of each name, newest first: at least the `limit` newest. Records named None are skipped.

        Reads each partition from near its end, and again from further back while that can find a newer record.
        """
        depth = max(limit, FIRST_READ)
        while True:
            begins, ends = await self.beginning_offsets(topic), await self.end_offsets(topic)
            found: dict[str, ConsumerRecord] = {}
            first: dict[int, int] = {}
            async for record in self.read(topic, depth):
                first.setdefault(record.partition, record.timestamp)
                key = name(record)
                if key is not None and (key not in found or found[key].timestamp <= record.timestamp):
                    found[key] = record
            result = sorted(found.values(), key=lambda record: (record.timestamp, record.offset), reverse=True)
            unread = [time for partition, time in first.items() if ends[partition] - begins[partition] > depth]
            if not unread or (len(result) >= limit and result[limit - 1].timestamp >= max(unread)):
                return result
            depth *= 4

    async def read_batches(
        self, topic: str, starts: Mapping[int, int], ends: Mapping[int, int] | None
    ) -> AsyncGenerator[list[ConsumerRecord], None]:
        """Lists of one partition's records, from `starts` until `ends`, or without end."""
        async with open_consumer(self._settings) as consumer:
            tps = _assign(consumer, topic, starts)
            while left := [tp for tp in tps if ends is None or await consumer.position(tp) < ends[tp.partition]]:
                polled = await consumer.getmany(*left, timeout_ms=1000, max_records=5000)
                for records in polled.values():
                    yield records
                if not polled and ends is not None:
                    # The client does not report that a broker is away; this request raises if so.
                    await consumer.end_offsets(left)

    async def first_record(self, topic: str, partition: int, start: int, end: int) -> ConsumerRecord | None:
        """The first record from offset `start` on; None if none is before `end`: markers of transactions have offsets.

        It may be after `end` if it arrived since.
        """
        async with aclosing(self.read_batches(topic, {partition: start}, {partition: end})) as polls:
            records = await anext(polls, None)
        return records[0] if records else None

    async def _topic_partitions(self, topic: str) -> list[TopicPartition]:
        if topic not in self._partitions:
            found = await partitions_of(self._settings, topic)
            self._partitions[topic] = [TopicPartition(topic, partition) for partition in found]
        return self._partitions[topic]


@asynccontextmanager
async def open_reader(settings: Settings) -> AsyncIterator[TopicReader]:
    """Opens a reader. aiokafka's errors in the block become `ActionRequired` or `Retry`."""
    try:
        async with open_consumer(settings) as consumer:
            yield TopicReader(settings, consumer)
    except (KafkaError, OSError) as error:
        raise await diagnose(error, settings) from error


@asynccontextmanager
async def open_consumer(
    settings: Settings, *, auto_offset_reset: str = "earliest", **options: Any
) -> AsyncIterator[Consumer]:
    """Opens a consumer for one assignment: after a second one, stopping aiokafka's consumer can hang.

    By default it continues at the beginning of the log if retention deletes the records at its position.
    """
    consumer = Consumer(
        **client_options(settings),
        **options,
        auto_offset_reset=auto_offset_reset,
        enable_auto_commit=False,
        isolation_level="read_committed",
        max_partition_fetch_bytes=8 * 1024 * 1024,
        # Existing records must not wait for new ones.
        fetch_max_wait_ms=50,
    )
    try:
        await start_client(consumer, settings)
        # Its tasks must have started before it is stopped, or stopping raises.
        await asyncio.sleep(0)
        yield consumer
    finally:
        # Without a broker, stopping can take forever.
        await asyncio.wait({asyncio.ensure_future(consumer.stop())}, timeout=STOP_SECONDS)


def _assign(consumer: Consumer, topic: str, starts: Mapping[int, int]) -> list[TopicPartition]:
    tps = [TopicPartition(topic, partition) for partition in starts]
    consumer.assign(tps)
    for tp in tps:
        consumer.seek(tp, starts[tp.partition])
    return tps
