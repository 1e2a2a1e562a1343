"""Records as the stages read them."""

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from stormfold.kafka._patches import Record, raw_record
from stormfold.kafka.client import client_options
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
