"""Writes records to `alerts` and waits for their acknowledgement; what is not acknowledged in time is dropped."""

import asyncio
from collections.abc import Sequence
from itertools import count

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from stormfold.errors import Retry, StormfoldError
from stormfold.kafka._patches import abort_producer
from stormfold.kafka.client import broker_error, client_options, start_client
from stormfold.kafka.topics import partitions_of
from stormfold.receive.split import MAX_ALERT_BYTES
from stormfold.settings import Settings

log = structlog.get_logger(__name__)

LINGER_MS = 2
"""Milliseconds that a batch waits for the records of other requests: many small requests share a batch."""

Headers = Sequence[tuple[str, bytes]]


class Delivery:
    """One idempotent producer for all requests. The records of a request go to one partition, in order."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.alerts_topic
        self._client: AIOKafkaProducer | None = None
        self._lock = asyncio.Lock()
        self._turn = count()

    async def send(self, records: Sequence[bytes], headers: Headers) -> None:
        """Returns when Kafka has acknowledged all records.

        Raises `Retry` or `ActionRequired` after at most `delivery_timeout`. None of the records is sent afterwards,
        but some may have been written: a sender that repeats the request may count them again.
        """
        client = None
        try:
            async with asyncio.timeout(self._settings.delivery_timeout):
                client = await self._started()
                # As this client knows them: it refuses a partition that was added after its last metadata.
                partitions = sorted(await client.partitions_for(self._topic))
                partition = partitions[next(self._turn) % len(partitions)]
                sent = []
                for record in records:
                    sent.append(await client.send(self._topic, record, partition=partition, headers=headers))
                    # Retrieved here too, in case that this request ends before all of its records have failed.
                    sent[-1].add_done_callback(lambda done: done.cancelled() or done.exception())
                await asyncio.gather(*sent)
        except TimeoutError:
            await self._discard(client)
            raise Retry(f"Kafka has not acknowledged within {self._settings.delivery_timeout:.0f} s") from None
        except (KafkaError, OSError) as error:
            await self._discard(client)
            raise broker_error(error, self._settings) from error

    async def check(self) -> None:
        """Raises `Retry` or `ActionRequired` if no broker answers, or the topic is missing."""
        await partitions_of(self._settings, self._topic)

    async def stop(self) -> None:
        """Closes the connections."""
        await self._discard(self._client)

    async def _started(self) -> AIOKafkaProducer:
        async with self._lock:
            if self._client is None:
                # Check first: a broker with automatic topic creation would create the topic with other settings.
                await self.check()
                client = AIOKafkaProducer(
                    **client_options(self._settings),
                    client_id="stormfold-receive",
                    enable_idempotence=True,
                    acks="all",
                    linger_ms=LINGER_MS,
                    max_batch_size=MAX_ALERT_BYTES + 64 * 1024,
                    max_request_size=2 * MAX_ALERT_BYTES,
                )
                try:
                    await start_client(client, self._settings)
                except (StormfoldError, asyncio.CancelledError):
                    await abort_producer(client, Retry())
                    raise
                self._client = client
            return self._client

    async def _discard(self, client: AIOKafkaProducer | None) -> None:
        """Drops the client with everything that is queued; the next request gets a new one."""
        if client is None:
            return
        if self._client is client:
            self._client = None
        await abort_producer(client, Retry("dropped with another request's records: no acknowledgement in time"))


def describe(error: StormfoldError) -> str:
    """The error in one line, with what to do."""
    return f"{error}: {error.hint}" if error.hint else str(error)
