"""Dead letters as they are written and read, with a producer in memory."""

from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import ConsumerRecord

from stormfold.errors import DeadLetter, Retry
from stormfold.kafka import dlq
from stormfold.kafka.producer import ProducerRecord

Headers = Sequence[tuple[str, bytes]]


def letter(headers: Headers = (), key: bytes | None = b"key", value: bytes | None = b"value") -> Any:
    """A record of a dead-letter topic."""
    return ConsumerRecord("alerts-dlq", 2, 7, 1000, 0, key, value, None, 0, 0, headers)


class FakeProducer:
    """Keeps what it sends; refuses records with a value of more than `limit` bytes."""

    def __init__(self, limit: int = 100) -> None:
        self.limit = limit
        self.sent: list[tuple[str, ProducerRecord, Headers]] = []

    async def send_record(self, topic: str, record: ProducerRecord, headers: Headers) -> None:
        if len(record.value or b"") > self.limit:
            raise DeadLetter
        self.sent.append((topic, record, headers))


async def written(record: Any, producer: Any) -> Any:
    """The dead letter of a record of `alerts`, as it is read."""
    await dlq.send_to_dlq(producer, "alerts-dlq", record, "alerts-3-1204", "not JSON")
    ((topic, sent, headers),) = producer.sent
    assert topic == "alerts-dlq"
    return letter(headers, sent.key, sent.value)


async def test_a_dead_letter_keeps_its_record() -> None:
    """Key, value and headers; the reason and the origin follow."""
    read = await written(letter([("trace", b"1"), (dlq.ORIGIN, b"a producer's own")]), FakeProducer())
    assert (read.key, read.value) == (b"key", b"value")
    assert (dlq.reason(read), dlq.origin(read)) == ("not JSON", "alerts-3-1204")
    assert dlq.origin_in(read, "alerts") == (3, 1204)
    assert not dlq.is_truncated(read) and not dlq.is_redrive_mark(read)


async def test_a_too_large_record_is_truncated() -> None:
    """Its letter has origin and reason only, whatever headers the record had."""
    read = await written(letter([("trace", b"1")], value=b"x" * 101), FakeProducer())
    assert (read.key, read.value) == (b"alerts-3-1204", None)
    assert (dlq.reason(read), dlq.origin(read)) == ("not JSON", "alerts-3-1204")
    assert dlq.is_truncated(read) and "trace" not in dict(read.headers)


async def test_a_producers_own_header_truncates_nothing() -> None:
    """Only the last header counts, which is never a producer's."""
    assert not dlq.is_truncated(await written(letter([(dlq.TRUNCATED, b"mine")]), FakeProducer()))


async def test_a_redriven_record_is_as_it_was() -> None:
    """With its headers and the origin; then a mark states that the letter was published again."""
    own = [("trace", b"1"), (dlq.REASON, b"a producer's own")]
    read = await written(letter([*own, (dlq.REDRIVEN_FROM, b"elsewhere-0-0")]), FakeProducer())
    producer: Any = FakeProducer()
    await dlq.redrive(producer, [read], "alerts")
    (topic, record, headers), (mark_topic, mark, mark_headers) = producer.sent
    assert (topic, record) == ("alerts", (b"key", b"value"))
    assert headers == [*own, (dlq.REDRIVEN_FROM, b"alerts-3-1204")]
    assert (mark_topic, mark) == ("alerts-dlq", (b"alerts-3-1204", None))
    assert dlq.is_redrive_mark(letter(mark_headers)) and dlq.redriven_origin(letter(mark_headers)) == "alerts-3-1204"


def numbered(number: int, value: bytes) -> Any:
    """A dead letter of the record `alerts-0-<number>`."""
    return letter([(dlq.ORIGIN, f"alerts-0-{number}".encode())], value=value)


def marked(producer: FakeProducer) -> list[bytes | None]:
    """The origins that were marked as redriven."""
    return [record.key for topic, record, _ in producer.sent if topic == "alerts-dlq"]


async def test_letters_are_marked_although_another_one_is_too_large() -> None:
    """Otherwise the next redrive would publish their records again."""
    letters = [numbered(number, b"x" * (101 if number == 2 else 100)) for number in range(5)]
    producer: Any = FakeProducer()
    assert await dlq.redrive(producer, letters, "alerts") == ["alerts-0-2"]
    assert [topic for topic, *_ in producer.sent].count("alerts") == 4
    assert marked(producer) == [b"alerts-0-0", b"alerts-0-1", b"alerts-0-3", b"alerts-0-4"]


async def test_letters_are_marked_although_another_one_cannot_be_delivered() -> None:
    class Unavailable(FakeProducer):
        """Cannot deliver one record."""

        async def send_record(self, topic: str, record: ProducerRecord, headers: Headers) -> None:
            if record.value == b"away":
                raise Retry
            await super().send_record(topic, record, headers)

    producer: Any = Unavailable()
    with pytest.raises(Retry):
        await dlq.redrive(producer, [numbered(0, b"away"), numbered(1, b"x"), numbered(2, b"x" * 101)], "alerts")
    assert marked(producer) == [b"alerts-0-1"]


@pytest.mark.parametrize("value", [b"alerts-3", b"alerts-3-x", b"storms-3-1", b"alerts-3-1 ", b"", None])
def test_an_origin_elsewhere_is_none(value: Any) -> None:
    """Anybody can write into the topic."""
    assert dlq.origin_in(letter([(dlq.ORIGIN, value)]), "alerts") is None


def test_a_letter_without_an_origin_is_its_own() -> None:
    """So that it can be shown and redriven."""
    assert dlq.origin(letter()) == "alerts-dlq-2-7"
