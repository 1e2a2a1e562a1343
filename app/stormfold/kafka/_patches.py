"""Records as aiokafka's consumers read them once this module is imported: whatever is in them, and without waste.

Header names that are not UTF-8: to Kafka a name is bytes; aiokafka raises on such a record, at every poll, for good.
Here the bytes that can't be decoded become surrogates (`surrogateescape`), which no name that can be decoded contains.
`text.escape_surrogates` makes a name of it that can be sent.

Waste: aiokafka makes a `ConsumerRecord` of each record that its parser has made. `raw_record` asks for the latter.
"""

import asyncio
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords


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


def raw_record(value: bytes | None) -> bytes | None:
    """For a consumer's `value_deserializer`: it then hands out each `Record` as it was parsed, for half of the cost."""
    return value


_LENGTH = struct.Struct(">8xi")
"""Head of a record batch: its offset, and how many bytes follow."""


class _Records:
    """The record batches of a fetch, as the fetcher reads them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._records = MemoryRecords(data)
        self.has_next = self._records.has_next
        self.size_in_bytes = self._records.size_in_bytes

    def next_batch(self) -> "_Batch":
        begin = self._at
        self._at += _LENGTH.size + _LENGTH.unpack_from(self._data, begin)[0]
        return _Batch(self._records.next_batch(), self._data, begin, self._at)


class _Batch:
    """A record batch: read whole by aiokafka's C parser, or by its Python one if that fails."""

    __slots__ = (
        "_batch", "_place", "base_offset", "is_control_batch", "is_transactional", "next_offset", "producer_id",
        "validate_crc",
    )  # fmt: skip

    def __init__(self, batch: Any, *place: Any) -> None:
        self._batch = batch
        self._place = place
        self.base_offset = batch.base_offset
        self.next_offset = batch.next_offset
        self.producer_id = batch.producer_id
        self.is_control_batch = batch.is_control_batch
        self.is_transactional = batch.is_transactional
        self.validate_crc = batch.validate_crc

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._batch))
        except (UnicodeDecodeError, CorruptRecordException):
            # The second is what the Python parser makes of the first, where there is no C.
            return _read_again(*self._place)

    def __next__(self) -> Any:
        return next(self._batch)


def _read_again(data: bytes, begin: int, end: int) -> Iterator[Any]:
    batch = _DefaultRecordBatchPy(data[begin:end])
    batch._maybe_uncompress()
    batch._buffer = _Lenient(batch._buffer)
    return iter(batch)


class _Lenient(bytearray):
    """What is decoded of it is never refused."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Lenient(found) if isinstance(found, bytearray) else found

    def decode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> str:
        return super().decode(encoding, errors)


class _PartitionRecords(fetcher.PartitionRecords):
    """The records of a partition that a fetch brought."""

    def _consumer_record(self, tp: TopicPartition, record: Record) -> Any:
        return record if self._value_deserializer is raw_record else super()._consumer_record(tp, record)


# Consumers have no setting for either. The version of aiokafka is pinned, and tests send such records.
fetcher.MemoryRecords = _Records
fetcher.PartitionRecords = _PartitionRecords


async def abort_producer(client: AIOKafkaProducer, error: Exception) -> None:
    """Closes a producer without delivering what it still holds; every pending `send` raises `error`.

    `AIOKafkaProducer.stop` first delivers everything, and an idempotent producer retries for as long as that takes.
    """
    task = client._sender.sender_task
    if task is not None:
        task.cancel()
        await asyncio.wait({task})
    client._message_accumulator.fail_all(error)
    await client.stop()
