"""Reads all partitions of one topic by assignment, and commits for a group that has no members."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from stormfold.errors import Retry
from stormfold.kafka._patches import Consumer
from stormfold.kafka.client import diagnose
from stormfold.kafka.reader import open_consumer
from stormfold.kafka.topics import partitions_of
from stormfold.kafka.transactions import describe
from stormfold.settings import Settings

MAX_POLL_RECORDS = 500
"""Most records that are returned together: the caller decodes them while nothing else runs."""
TRANSACTION_SECONDS = 5.0
"""Longest wait for the end of a transaction."""


class LogReader:
    """The records of all partitions, each from a position on. Raises aiokafka's errors."""

    def __init__(self, settings: Settings, topic: str, consumer: Consumer, partitions: range) -> None:
        self._settings = settings
        self._topic = topic
        self._consumer = consumer
        self._partitions = [TopicPartition(topic, partition) for partition in partitions]
        self.partitions = partitions
        """Those that the topic had when this was opened."""

    async def beginning_offsets(self) -> dict[int, int]:
        """Offset of the first record of each partition."""
        found = await self._consumer.beginning_offsets(self._partitions)
        return {tp.partition: offset for tp, offset in found.items()}

    async def end_offsets(self) -> dict[int, int]:
        """Offset after the last record of each partition, also if a transaction is open."""
        found = await self._consumer.log_end_offsets(self._partitions)
        return {tp.partition: offset for tp, offset in found.items()}

    async def has_more_partitions(self) -> bool:
        """Whether the topic has got partitions since this was opened. Asks a broker."""
        return len(await partitions_of(self._settings, self._topic)) > len(self.partitions)

    def start(self, positions: Mapping[int, int]) -> None:
        """Moves to these positions. To be called once: after a second assignment, stopping aiokafka can hang."""
        self._consumer.assign(self._partitions)
        for tp in self._partitions:
            self._consumer.seek(tp, positions[tp.partition])

    async def read(self, ends: Mapping[int, int]) -> AsyncIterator[list[ConsumerRecord]]:
        """Lists of one partition's records from the positions until `ends`, and some after them that were fetched.

        Raises `Retry` if an open transaction holds them back.
        """
        progress = time.monotonic()
        while left := [tp for tp in self._partitions if await self._consumer.position(tp) < ends[tp.partition]]:
            polled = await self._consumer.getmany(*left, timeout_ms=1000, max_records=MAX_POLL_RECORDS)
            for records in polled.values():
                yield records
            if polled:
                progress = time.monotonic()
                continue
            # The client does not report that a broker is away; this request raises if so.
            stable = await self._consumer.end_offsets(left)
            held = {tp.partition: offset for tp, offset in stable.items() if offset < ends[tp.partition]}
            if held and time.monotonic() - progress > TRANSACTION_SECONDS:
                raise Retry(*describe(self._topic, held))

    async def positions(self) -> dict[int, int]:
        """The next offset of each partition that `read` will return."""
        return {tp.partition: await self._consumer.position(tp) for tp in self._partitions}

    async def commit(self, offsets: Mapping[int, tuple[int, str]]) -> None:
        """Commits next offsets with metadata for the group."""
        await self._consumer.commit(
            {TopicPartition(self._topic, p): OffsetAndMetadata(offset, text) for p, (offset, text) in offsets.items()}
        )


@asynccontextmanager
async def open_log_reader(settings: Settings, topic: str, group: str) -> AsyncIterator[LogReader]:
    """Opens a reader of a topic that commits for a group. aiokafka's errors become `ActionRequired` or `Retry`."""
    partitions = await partitions_of(settings, topic)
    try:
        # The client must never choose a position: records that it passed over would be lost unnoticed.
        async with open_consumer(settings, group_id=group, auto_offset_reset="none") as consumer:
            yield LogReader(settings, topic, consumer, partitions)
    except (KafkaError, OSError) as error:
        raise await diagnose(error, settings) from error
