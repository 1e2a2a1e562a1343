"""Everything in aiokafka that stormfold replaces. The version is pinned (0.14.0), and tests cover each patch.

1. A record with a header name that is not UTF-8 raises at every poll, so that its partition is never read again; to
   Kafka a name is bytes. There is no setting for it, and the C parser cannot be subclassed. Here bytes that cannot be
   decoded become surrogates (`surrogateescape`); `text.escape_surrogates` makes a name that can be sent.
2. The consumer makes a `ConsumerRecord` of each record that its parser made, which doubles the cost of reading. A
   consumer with `value_deserializer=raw_record` returns the parser's records. Its loop over them calls the generator
   directly, not through a method for each record.
3. Writing to a connection that just broke raises `RuntimeError` under uvloop; aiokafka handles only the `OSError` of
   asyncio. The task that refreshes a client's metadata would fail silently and leave the client hanging.
4. `AIOKafkaProducer.stop` delivers everything first, and an idempotent producer retries without limit. `abort_producer`
   closes a producer at once, also if a broker is silent.
5. All requests share one timeout, and brokers are asked one after the other, under a lock. To find a new leader or
   coordinator in place of a silent broker would take as many timeouts of the largest fetch as there are requests.
6. A consumer or producer starts although no broker can be reached at the address that it advertises, and retries
   without limit. `reaches_a_broker` finds out.
7. A batch reads the clock for each record without a timestamp, and appends it through two more calls, which doubles the
   cost of appending. `append_records` appends many at once.
8. A consumer that reads committed records only cannot request the end of the log. `Consumer` can.
9. A connection whose token the broker refuses counts as authenticated, and is then closed without a reason.
"""

import asyncio
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import wraps
from itertools import chain
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition, errors
from aiokafka.conn import AIOKafkaConnection, CloseReason, OAuthAuthenticator
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.producer import producer, sender
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.util import wait_for

CONNECT_SECONDS = 5.0
"""Longest that connecting to a broker may take, including TLS and authentication."""
LOOKUP_SECONDS = 3.0
"""Longest that a broker may take to answer a `_LOOKUP` request, which it answers from memory."""
_LOOKUP = (ApiVersionRequest, MetadataRequest, FindCoordinatorRequest)
"""Not heartbeats: they share a connection with commits, which may wait for a silent follower, and wait too."""


class Record(Protocol):
    """A record, without its topic and partition."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


# 1. Header names that are not UTF-8

_BATCH_LENGTH = struct.Struct(">8xi")
"""Start of a record batch: its offset, and how many bytes follow."""


class _Records:
    """The record batches of one fetch response, as the fetcher reads them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._records = MemoryRecords(data)
        self.has_next = self._records.has_next
        self.size_in_bytes = self._records.size_in_bytes

    def next_batch(self) -> "_Batch":
        begin = self._at
        self._at += _BATCH_LENGTH.size + _BATCH_LENGTH.unpack_from(self._data, begin)[0]
        return _Batch(self._records.next_batch(), self._data, begin, self._at)


class _Batch:
    """A record batch, read whole by aiokafka's C parser, or by its Python parser if that fails."""

    def __init__(self, batch: Any, *source: Any) -> None:
        self._batch = batch
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._batch))
        except (UnicodeDecodeError, CorruptRecordException):
            # The Python parser, used where there is no C extension, raises the second for the first.
            return _parse_leniently(*self._source)

    def __next__(self) -> Any:
        return next(self._batch)


def _parse_leniently(data: bytes, begin: int, end: int) -> Iterator[Any]:
    batch = _DefaultRecordBatchPy(data[begin:end])
    batch._maybe_uncompress()
    batch._buffer = _LenientBuffer(batch._buffer)
    return iter(batch)


class _LenientBuffer(bytearray):
    """Bytes whose slices can always be decoded."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _LenientBuffer(found) if isinstance(found, bytearray) else found

    def decode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> str:
        return super().decode(encoding, errors)


# 2. Records without a ConsumerRecord


def raw_record(value: bytes | None) -> bytes | None:
    """For a consumer's `value_deserializer`: the consumer then returns each `Record` as it was parsed."""
    return value


class _PartitionRecords(fetcher.PartitionRecords):
    """The records of a partition in one fetch response."""

    def __iter__(self) -> Iterator[Any]:
        iterator: Iterator[Any] = self._records_iterator
        return iterator

    def _consumer_record(self, tp: TopicPartition, record: Record) -> Any:
        return record if self._value_deserializer is raw_record else super()._consumer_record(tp, record)


# 3. Writing to a broken connection


def _raise_connection_error(write: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a method that writes to a connection: `RuntimeError` becomes `KafkaConnectionError`, as `OSError` does."""

    @wraps(write)
    def wrapped(connection: AIOKafkaConnection, *args: Any, **kwargs: Any) -> Any:
        try:
            return write(connection, *args, **kwargs)
        except RuntimeError as error:
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise errors.KafkaConnectionError(str(error)) from error

    return wrapped


# 4. Closing a producer at once


class _Sender(sender.Sender):
    """The background task of a producer, which can be aborted: of its own accord it ends after its requests."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._requests: set[asyncio.Task[Any]] = set()
        self._aborted = False

    async def _send_produce_req(self, *args: Any) -> None:
        task = asyncio.current_task()
        # A request that has not begun yet must not be sent.
        if task is not None and not self._aborted:
            self._requests.add(task)
            try:
                await super()._send_produce_req(*args)
            finally:
                self._requests.discard(task)

    async def abort(self) -> None:
        """Returns when nothing is sent any more."""
        self._aborted = True
        if tasks := {task for task in (self.sender_task, *self._requests) if task is not None}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def abort_producer(client: AIOKafkaProducer, error: Exception) -> None:
    """Closes a producer without delivering what it still holds; every pending `send` raises `error`."""
    await client._sender.abort()
    pending = client._message_accumulator
    batches = [*chain.from_iterable(pending._batches.values()), *pending._pending_batches]
    pending.fail_all(error)
    for batch in batches:
        # Otherwise the event loop logs that nobody retrieved it: only a `send` that waits for room does.
        batch._drain_waiter.exception()
    for connection in client.client._conns.values():
        # To close would first send all that is buffered, which a silent broker does not take.
        if connection._writer is not None:
            connection._writer.transport.abort()
    await client.stop()


# 5. Shorter timeouts for lookups and connecting


def _limit_lookups(send: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `send`: lookups are answered within `LOOKUP_SECONDS` or fail."""

    @wraps(send)
    def wrapped(connection: AIOKafkaConnection, request: Any, *args: Any, **kwargs: Any) -> Any:
        response = send(connection, request, *args, **kwargs)
        return wait_for(response, LOOKUP_SECONDS) if isinstance(request, _LOOKUP) else response

    return wrapped


def _limit_connecting(connect: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `connect`: it is done within `CONNECT_SECONDS` or fails."""

    @wraps(connect)
    async def wrapped(connection: AIOKafkaConnection) -> Any:
        async with asyncio.timeout(CONNECT_SECONDS):
            # uvloop logs the failure of a lookup whose caller was cancelled as an exception that nobody retrieved.
            lookup = asyncio.ensure_future(asyncio.get_running_loop().getaddrinfo(connection.host, connection.port))
            lookup.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.shield(lookup)
            return await connect(connection)

    return wrapped


# 6. Brokers that cannot be reached


async def reaches_a_broker(client: Any) -> bool:
    """Whether a started client can connect to one of the brokers at the address that this broker advertises."""
    network = client.client if isinstance(client, AIOKafkaProducer) else client._client
    node = network.get_random_node()
    return node is None or bool(await network.ready(node))


# 7. Appending many records to a batch


def append_records(batch: BatchBuilder, records: Sequence[tuple[bytes | None, bytes | None]], first: int) -> int:
    """Appends pairs of key and value, from index `first` on, to a new batch until it is full.

    Returns the index of the first record that the batch does not have.
    """
    append, now = batch._builder.append, int(time.time() * 1000)
    for index in range(first, len(records)):
        key, value = records[index]
        if append(index - first, now, key, value, []) is None:
            break
    else:
        index = len(records)
    batch._relative_offset = index - first
    return index


# 8. Ends of the log


class Consumer(AIOKafkaConsumer):
    """A consumer that also returns the ends of the log."""

    async def log_end_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Like `end_offsets`, but includes records of open transactions and all records after them."""
        uncommitted = copy(self._fetcher)
        uncommitted._isolation_level = fetcher.READ_UNCOMMITTED
        ends: dict[TopicPartition, int] = await uncommitted.end_offsets(tps, self._request_timeout_ms)
        return ends


# 9. Tokens that a broker refuses


def _raise_refusal(step: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a step of authentication by token: the broker responds with a text only if it refuses the token."""

    @wraps(step)
    async def wrapped(authenticator: OAuthAuthenticator, response: bytes | None) -> Any:
        if authenticator._token_sent and response:
            authenticator._sasl_oauth_token_provider.forget()
            raise errors.SaslAuthenticationFailed(response.decode(errors="replace"))
        return await step(authenticator, response)

    return wrapped


fetcher.MemoryRecords = _Records
fetcher.PartitionRecords = _PartitionRecords
producer.Sender = _Sender
AIOKafkaConnection.send = _limit_lookups(_raise_connection_error(AIOKafkaConnection.send))
AIOKafkaConnection._send_sasl_token = _raise_connection_error(AIOKafkaConnection._send_sasl_token)
OAuthAuthenticator.step = _raise_refusal(OAuthAuthenticator.step)
AIOKafkaConnection.connect = _limit_connecting(AIOKafkaConnection.connect)
