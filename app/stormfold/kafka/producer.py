"""The producer: idempotent, with acks=all, and in order: a record is sent after the previous ones are acknowledged."""

import asyncio
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from stormfold.errors import DeadLetter, Retry, StormfoldError
from stormfold.kafka._patches import abort_producer, append_records
from stormfold.kafka.client import client_options, diagnose, start_client
from stormfold.settings import Settings
from stormfold.text import escape_surrogates

MAX_BATCH_BYTES = 900_000
"""A record batch stays below the brokers' default limit of 1 MiB."""
MAX_RECORD_BYTES = 64 * 1024 * 1024
"""Far above the limit of any topic: the brokers decide, not the client."""

Pair = tuple[bytes | None, bytes | None]
"""Key and value of a record to send; a `ProducerRecord` where the cost of creating one does not matter."""


class ProducerRecord(NamedTuple):
    """A record to send."""

    key: bytes | None
    value: bytes | None


class Producer:
    """Sends records. Unavailable brokers are retried without limit: aiokafka delivers idempotent batches in any case.

    Raises `Retry` or `ActionRequired` for other failures; the next call reconnects. After a failed call some of its
    records may have been written: of each partition's list, always the first ones.
    """

    def __init__(self, settings: Settings, name: str, compression: str = "none") -> None:
        self._settings = settings
        self._name = name
        self._compression = None if compression == "none" else compression
        self._client: AIOKafkaProducer = None
        self._lock = asyncio.Lock()
        self._stopping: set[asyncio.Task[None]] = set()

    async def send(self, topic: str, records: Mapping[int, Iterable[Pair]]) -> None:
        """Sends records by partition, in order, in as few batches as possible; returns when all are acknowledged."""
        client = await self._connected()
        results = await asyncio.gather(
            *(self._send_partition(client, topic, partition, list(pairs)) for partition, pairs in records.items()),
            return_exceptions=True,
        )
        for error in results:
            if isinstance(error, BaseException):
                self._discard(client)
                if isinstance(error, KafkaError | OSError):
                    raise await diagnose(error, self._settings) from error
                raise error

    async def send_by_key(self, topic: str, records: Iterable[ProducerRecord]) -> None:
        """Sends records, each to the partition that its key always maps to; returns when all are acknowledged."""
        partitions = await self.partitions(topic)
        by_partition: defaultdict[int, list[ProducerRecord]] = defaultdict(list)
        for record in records:
            by_partition[zlib.crc32(record.key or b"") % partitions].append(record)
        await self.send(topic, by_partition)

    async def send_record(self, topic: str, record: ProducerRecord, headers: Sequence[tuple[str, bytes]]) -> None:
        """Sends one record with headers; returns when it is acknowledged.

        Raises `DeadLetter` if it is larger than the topic takes.
        """
        client = await self._connected()
        key, value = record
        if key is None and value is None:
            # The client does not send a record that has neither, although it can be read.
            key = b""
        try:
            sendable = [(escape_surrogates(name), content) for name, content in headers]
            await client.send_and_wait(topic, value, key=key, headers=sendable)
        except MessageSizeTooLargeError as error:
            # The broker has not seen its sequence number, and takes no later one.
            self._discard(client)
            raise DeadLetter(f"record is larger than {topic} takes") from error
        except (KafkaError, OSError) as error:
            self._discard(client)
            raise await diagnose(error, self._settings) from error

    async def partitions(self, topic: str) -> int:
        client = await self._connected()
        try:
            return len(await client.partitions_for(topic))
        except (KafkaError, OSError) as error:
            raise await diagnose(error, self._settings) from error

    async def stop(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.stop()

    async def abort(self) -> None:
        """Closes the connections without delivering records that are not acknowledged yet."""
        if self._client is not None:
            client, self._client = self._client, None
            await abort_producer(client, Retry("the producer was closed"))

    async def _connected(self) -> AIOKafkaProducer:
        async with self._lock:
            if self._client is None:
                options = client_options(self._settings)
                options["request_timeout_ms"] = round(self._settings.delivery_timeout * 1000)
                client = AIOKafkaProducer(
                    **options,
                    client_id=f"stormfold-{self._name}",
                    compression_type=self._compression,
                    enable_idempotence=True,
                    acks="all",
                    max_batch_size=MAX_BATCH_BYTES,
                    max_request_size=MAX_RECORD_BYTES,
                )
                try:
                    await start_client(client, self._settings)
                except (StormfoldError, asyncio.CancelledError):
                    await abort_producer(client, Retry())
                    raise
                self._client = client
            return self._client

    def _discard(self, client: AIOKafkaProducer) -> None:
        # After a failure it is uncertain what an idempotent producer has written, and so is its sequence number: the
        # next call creates a new one. Stopping takes until its batches are delivered, so it is not awaited.
        if self._client is client:
            self._client = None
            task = asyncio.ensure_future(client.stop())
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    @staticmethod
    async def _send_partition(client: AIOKafkaProducer, topic: str, partition: int, records: list[Pair]) -> None:
        at = 0
        while at < len(records):
            batch = client.create_batch()
            at = append_records(batch, records, at)
            await (await client.send_batch(batch, topic, partition=partition))
