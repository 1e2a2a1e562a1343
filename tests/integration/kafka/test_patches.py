"""What stormfold changes in aiokafka: records as they are parsed and appended, broken connections, lookups."""

import asyncio
import gc
from typing import Any

import pytest
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.util import wait_for

from stormfold.errors import Retry
from stormfold.kafka._patches import Record, _limit_lookups, abort_producer, append_records, raw_record
from stormfold.kafka.client import client_options
from stormfold.kafka.producer import Producer
from stormfold.local.kafka import EmbeddedKafka
from stormfold.settings import Settings


async def test_raw_records_equal_consumer_records(topics: Settings) -> None:
    """The parser's records have the same fields, and no `ConsumerRecord` is made of them."""
    topic = topics.alerts_topic
    async with AIOKafkaProducer(**client_options(topics)) as producer:
        for number in range(3):
            headers = [("a", b"\x00"), ("a", None)][:number]
            await producer.send_and_wait(topic, b"v" * number, None if number else b"k", 0, 1000 + number, headers)
    usual, parsed = await _read(topics, 3), await _read(topics, 3, value_deserializer=raw_record)
    assert [_fields(one) for one in parsed] == [_fields(one) for one in usual]
    assert [one.offset for one in parsed] == [0, 1, 2]
    assert [isinstance(one, ConsumerRecord) for one in (usual[0], parsed[0])] == [True, False]


def _fields(record: Record) -> list[object]:
    return [record.offset, record.timestamp, record.key, record.value, list(record.headers)]


async def _read(settings: Settings, count: int, **options: object) -> list[Record]:
    async with AIOKafkaConsumer(**client_options(settings), **options) as consumer:
        partition = TopicPartition(settings.alerts_topic, 0)
        consumer.assign([partition])
        consumer.seek(partition, 0)
        return [await consumer.getone() for _ in range(count)]


def test_append_records_fills_batches_like_append() -> None:
    records: list[tuple[bytes | None, bytes | None]] = [(b"k%d" % number, b"v" * 40) for number in range(100)]
    records += [(None, b"v"), (b"k", None)]
    at = 0
    while at < len(records):
        usual, batch = BatchBuilder(1_000, 0), BatchBuilder(1_000, 0)
        first = at
        at = append_records(batch, records, first)
        for key, value in records[first:]:
            if usual.append(timestamp=None, key=key, value=value) is None:
                break
        assert batch.record_count() == usual.record_count() == at - first > 0
        parsed = list(MemoryRecords(bytes(batch._build())).next_batch())
        assert [(one.offset, one.key, one.value) for one in parsed] == [
            (offset, *record) for offset, record in enumerate(records[first:at])
        ]


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
async def test_compressed_batches_are_read_as_they_were_sent(topics: Settings, compression: str) -> None:
    producer = Producer(topics, "test", compression)
    pairs = [(b"k%d" % number, b"v" * number) for number in range(50)]
    try:
        await producer.send(topics.alerts_topic, {0: pairs})
    finally:
        await producer.stop()
    found = await _read(topics, 50, value_deserializer=raw_record)
    assert [(one.key, one.value) for one in found] == pairs


@pytest.mark.parametrize("turns", range(4))
def test_writing_to_a_broken_connection_raises_a_kafka_error(kafka: EmbeddedKafka, turns: int) -> None:
    """Clients expect this error, however many turns of the uvloop event loop the connection has been broken."""

    async def ask() -> None:
        connection = await create_conn(*kafka.bootstrap.split(":"))
        connection._writer.transport.abort()
        for _ in range(turns):
            await asyncio.sleep(0)
        with pytest.raises(KafkaConnectionError):
            await connection.send(MetadataRequest([]))
        assert not connection.connected()

    uvloop.run(ask())


def test_a_lookup_of_a_host_that_fails_after_its_caller_was_cancelled_leaves_no_exception() -> None:
    """uvloop would log it as an exception that nobody retrieved."""
    left: list[dict[str, Any]] = []

    async def give_up() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: left.append(context))
        connecting = asyncio.ensure_future(create_conn("kafka.invalid", 9092))
        await asyncio.sleep(0)
        connecting.cancel()
        await asyncio.wait({connecting})
        # Lookups are done in order, by a few threads.
        for _ in range(3):
            with pytest.raises(OSError):
                await loop.getaddrinfo("kafka.invalid", 9092)
        gc.collect()

    uvloop.run(give_up())
    assert left == []


async def test_an_aborted_producer_leaves_no_exception(topics: Settings) -> None:
    """Each pending `send` raises; nothing else does."""
    left: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
    producer = AIOKafkaProducer(**client_options(topics), enable_idempotence=True, linger_ms=600_000)
    await producer.start()
    sent = await producer.send(topics.alerts_topic, b"{}", partition=0)
    await abort_producer(producer, Retry("aborted"))
    with pytest.raises(Retry):
        await sent
    del producer, sent
    gc.collect()
    assert left == []


@pytest.mark.parametrize("turns", range(4))
async def test_a_lookup_can_be_cancelled_while_its_response_arrives(turns: int) -> None:
    """A cancellation is never lost: a client that is closed waits until its tasks have ended."""
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    ask = _limit_lookups(lambda _connection, _request: wait_for(answer, 10))
    task = asyncio.ensure_future(ask(None, MetadataRequest([])))
    await asyncio.sleep(0)
    answer.set_result("leaders")
    for _ in range(turns):
        await asyncio.sleep(0)
    done = task.done()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled() != done
