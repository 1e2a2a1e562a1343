"""Dead letters: how they are written, read and published again.

A dead letter has the key, the value and the headers of its record. Two headers follow: `stormfold-reason`, and
`stormfold-origin`, the topic-partition-offset of the record. If the dead-letter topic does not take the whole, the
letter is truncated: its key is the origin, it has no value, and its last header is `stormfold-cut`.
A redrive mark, a record with the header `stormfold-redriven` and no value, states which origin was published again.
"""

import asyncio
import re
from collections.abc import Sequence

import structlog
from aiokafka import ConsumerRecord

from stormfold import metrics
from stormfold.errors import DeadLetter
from stormfold.kafka._patches import Record
from stormfold.kafka.producer import Producer, ProducerRecord

log = structlog.get_logger(__name__)

REASON = "stormfold-reason"
ORIGIN = "stormfold-origin"
TRUNCATED = "stormfold-cut"
REDRIVEN = "stormfold-redriven"
"""Header of a redrive mark: the origin of the dead letter that was published again."""
REDRIVEN_FROM = "stormfold-redriven-from"
"""Header of a record that was published again: the origin of its dead letter."""
MAX_REASON_BYTES = 1000

Headers = list[tuple[str, bytes]]


async def send_to_dlq(producer: Producer, dlq_topic: str, record: Record, origin: str, reason: str) -> None:
    """Writes a record to a dead-letter topic; truncated if the topic does not take the whole.

    `origin` is the record's topic-partition-offset. Raises `Retry` or `ActionRequired`.
    """
    ours = [(REASON, reason.encode(errors="replace")[:MAX_REASON_BYTES]), (ORIGIN, origin.encode())]
    try:
        await producer.send_record(dlq_topic, ProducerRecord(record.key, record.value), [*record.headers, *ours])
    except DeadLetter:
        truncated = [*ours, (TRUNCATED, b"too large")]
        await producer.send_record(dlq_topic, ProducerRecord(origin.encode(), None), truncated)
    metrics.DEAD_LETTERS.labels(dlq_topic).inc()
    log.warning("dead letter", origin=origin, reason=reason, topic=dlq_topic)


def origin(letter: ConsumerRecord) -> str:
    """The topic-partition-offset of the record; if the header is missing, that of the letter itself."""
    return _header(letter, ORIGIN) or f"{letter.topic}-{letter.partition}-{letter.offset}"


def origin_in(letter: ConsumerRecord, topic: str) -> tuple[int, int] | None:
    """Partition and offset of the record in `topic`; None if the origin is not a place in that topic."""
    value = dict(letter.headers).get(ORIGIN) or b""
    found = re.fullmatch(rb"%b-([0-9]{1,10})-([0-9]{1,19})" % re.escape(topic.encode()), value)
    return (int(found[1]), int(found[2])) if found else None


def reason(letter: ConsumerRecord) -> str:
    """Why the record cannot be processed."""
    return _header(letter, REASON)


def is_truncated(letter: ConsumerRecord) -> bool:
    """Whether the record was too large for the dead-letter topic. The last header is never a producer's."""
    return bool(letter.headers) and letter.headers[-1][0] == TRUNCATED


def is_redrive_mark(letter: ConsumerRecord) -> bool:
    """Whether this is a redrive mark and not a dead letter."""
    names = dict(letter.headers)
    return REDRIVEN in names and ORIGIN not in names


def redriven_origin(mark: ConsumerRecord) -> str:
    """The origin that a redrive mark states."""
    return _header(mark, REDRIVEN)


async def redrive(producer: Producer, letters: Sequence[ConsumerRecord], target: str) -> list[str]:
    """Publishes the records of these letters to `target` again, as they were, then marks the letters.

    If it is interrupted in between, records are published twice rather than never. Returns the origins of records that
    are larger than `target` takes. Raises `Retry` or `ActionRequired` if others were not published either.
    """
    too_large: list[str] = []
    left = list(letters)
    while left:
        sent = await asyncio.gather(
            *(producer.send_record(target, ProducerRecord(one.key, one.value), _redriven_headers(one)) for one in left),
            return_exceptions=True,
        )
        results = list(zip(left, sent, strict=True))
        await _mark_redriven(producer, [letter for letter, error in results if error is None])
        refused = [origin(letter) for letter, error in results if isinstance(error, DeadLetter)]
        failed = [(letter, error) for letter, error in results if error and not isinstance(error, DeadLetter)]
        if failed and not refused:
            raise failed[0][1]
        # After a record that is too large, the broker refuses those that follow it in the same partition, too.
        too_large += refused
        left = [letter for letter, _ in failed]
    return too_large


async def _mark_redriven(producer: Producer, letters: Sequence[ConsumerRecord]) -> None:
    marks = [(letter.topic, origin(letter).encode()) for letter in letters]
    await asyncio.gather(
        *(producer.send_record(topic, ProducerRecord(mark, None), [(REDRIVEN, mark)]) for topic, mark in marks)
    )


def _redriven_headers(letter: ConsumerRecord) -> Headers:
    """The headers of the original record, and where it comes from."""
    ours = {REASON, ORIGIN}
    kept = list(letter.headers)
    # Ours are the last ones; headers of the same name that a producer set stay.
    while kept and kept[-1][0] in ours:
        ours.remove(kept.pop()[0])
    return [*(header for header in kept if header[0] != REDRIVEN_FROM), (REDRIVEN_FROM, origin(letter).encode())]


def _header(letter: ConsumerRecord, name: str) -> str:
    return (dict(letter.headers).get(name) or b"").decode(errors="replace")
