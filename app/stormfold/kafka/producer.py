"""The worker's producer: idempotent, acks=all, and nothing later is sent before an earlier record is acknowledged."""

import asyncio
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from stormfold.errors import DeadLetter
from stormfold.kafka.client import broker_error, client_options, diagnose
from stormfold.settings import Settings
from stormfold.text import escape_surrogates

MAX_BATCH_BYTES = 900_000
"""A record batch stays below the broker's default limit of 1 MiB."""
MAX_RECORD_BYTES = 64 * 1024 * 1024
"""The broker's limit decides, not the client's."""


Pair = tuple[bytes | None, bytes | None]
"""Key and value of a record to send; an `ProducerRecord` where making one by one costs nothing that shows."""


class ProducerRecord(NamedTuple):
    """A record to send."""

    key: bytes | None
    value: bytes | None


class Producer:
    """Raises `Retry` or `ActionRequired` when the broker does not acknowledge in time; the next call reconnects.

    After a failed call some of its records may have been written, always a prefix of each partition's list.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._client: AIOKafkaProducer = None
        self._lock = asyncio.Lock()
        self._stopping: set[asyncio.Task[None]] = set()

    async def send(self, topic: str, records: Mapping[int, Iterable[Pair]]) -> None:
        """Sends records (key, value) by partition, in order, as few batches as they fit in, and awaits them all."""
        client = await self._started()
        tasks = [
            asyncio.ensure_future(self._send_partition(client, topic, partition, list(outgoing)))
            for partition, outgoing in records.items()
        ]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for error in results:
            if isinstance(error, BaseException):
                self._failed(client)
                if isinstance(error, KafkaError | OSError):
                    raise broker_error(error, self._settings) from error
                raise error

    async def send_by_key(self, topic: str, records: Iterable[ProducerRecord]) -> None:
        """Sends records, each to the partition that its key always gets, in order, and awaits them all."""
        partitions = await self.partitions(topic)
        outgoing: defaultdict[int, list[ProducerRecord]] = defaultdict(list)
        for record in records:
            outgoing[zlib.crc32(record.key or b"") % partitions].append(record)
        await self.send(topic, outgoing)

    async def send_record(self, topic: str, outgoing: ProducerRecord, headers: Sequence[tuple[str, bytes]]) -> None:
        """Sends one record, with headers, to the partition of its key.

        Raises `DeadLetter` if it is larger than the topic takes.
        """
        client = await self._started()
        key, value = outgoing
        if key is None and value is None:
            # A record with neither can be read, but the client sends none.
            key = b""
        try:
            sendable = [(escape_surrogates(name), content) for name, content in headers]
            await client.send_and_wait(topic, value, key=key, headers=sendable)
        except MessageSizeTooLargeError as error:
            # Its sequence number is spent, but the broker has not seen it and takes no later one.
            self._failed(client)
            raise DeadLetter(f"record is larger than {topic} takes") from error
        except (KafkaError, OSError) as error:
            self._failed(client)
            raise broker_error(error, self._settings) from error

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has."""
        client = await self._started()
        try:
            return len(await client.partitions_for(topic))
        except (KafkaError, OSError) as error:
            raise broker_error(error, self._settings) from error

    async def stop(self) -> None:
        """Ends the connection."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.stop()

    async def _started(self) -> AIOKafkaProducer:
        async with self._lock:
            if self._client is None:
                options = client_options(self._settings)
                options["request_timeout_ms"] = round(self._settings.delivery_timeout * 1000)
                client = AIOKafkaProducer(
                    **options,
                    client_id=f"stormfold-{self._name}",
                    enable_idempotence=True,
                    acks="all",
                    max_batch_size=MAX_BATCH_BYTES,
                    max_request_size=MAX_RECORD_BYTES,
                )
                try:
                    await client.start()
                except (KafkaError, OSError) as error:
                    await client.stop()
                    raise await diagnose(error, self._settings) from error
                self._client = client
            return self._client

    def _failed(self, client: AIOKafkaProducer) -> None:
        # What a failed idempotent producer has written is uncertain, and so is its sequence: the next call gets a
        # new one. Stopping it waits until its batches are delivered or expire, so that goes on by itself.
        if self._client is client:
            self._client = None
            task = asyncio.ensure_future(client.stop())
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    @staticmethod
    async def _send_partition(client: AIOKafkaProducer, topic: str, partition: int, records: list[Pair]) -> None:
        at = 0
        while at < len(records):
            builder = client.create_batch()
            while at < len(records):
                key, value = records[at]
                if builder.append(key=key, value=value, timestamp=None) is None:
                    break
                at += 1
            await (await client.send_batch(builder, topic, partition=partition))
