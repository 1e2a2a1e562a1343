"""The newest storms, or incidents, in their topic: each look reads only new records."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from aiokafka import ConsumerRecord

from stormfold.decoding import Malformed
from stormfold.incident import Incident
from stormfold.incident_manifest import decode_manifest as decode_incident
from stormfold.kafka.reader import TopicReader
from stormfold.manifest import decode_manifest
from stormfold.status.snapshot import Extent
from stormfold.storm import Aggregate

SHOWN = 20
"""How many are kept."""
READ_RECORDS = 100
"""Newest records of each partition to read at once."""


class _Seen(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def last_seen(self) -> int: ...


R = TypeVar("R", bound=_Seen)


class Recent(Generic[R]):
    """The newest resources in a topic. `decode` returns None for a record to skip, and raises `Malformed`."""

    def __init__(self, topic: str, decode: Callable[[bytes | None], R | None]) -> None:
        self._topic = topic
        self._decode = decode
        self._ends: dict[int, int] = {}
        self._found: dict[str, tuple[ConsumerRecord, R]] = {}

    async def read(self, reader: TopicReader, extents: Mapping[int, Extent]) -> None:
        """Reads what was published since the last call. Raises what `reader` raises."""
        new = max((extent.end - self._ends.get(partition, 0) for partition, extent in extents.items()), default=0)
        if new > 0:
            async for record in reader.read(self._topic, min(new, READ_RECORDS)):
                # Others may write to the topic, too.
                with suppress(Malformed):
                    if (found := self._decode(record.value)) is not None:
                        self._found[found.name] = (record, found)
            newest = sorted(self._found.items(), key=lambda item: item[1][0].timestamp, reverse=True)
            self._found = dict(newest[:SHOWN])
        self._ends = {partition: extent.end for partition, extent in extents.items()}

    def resources(self, written: Mapping[int, int] | None) -> list[tuple[R, bool | None]]:
        """Resources by their last alert, the latest first, and whether each is before the offsets in `written`."""
        # After an outage many are published at once, in no order.
        ordered = sorted(self._found.values(), key=lambda found: found[1].last_seen, reverse=True)
        return [
            (found, None if written is None else record.offset < written.get(record.partition, 0))
            for record, found in ordered
        ]


def recent_storms(topic: str) -> Recent[Aggregate]:
    """The newest aggregates of class Storm."""

    def decode(value: bytes | None) -> Aggregate | None:
        aggregate = decode_manifest(value)
        return aggregate if aggregate.aggregate_class == "Storm" else None

    return Recent(topic, decode)


def recent_incidents(topic: str) -> Recent[Incident]:
    """The newest incidents."""
    return Recent(topic, decode_incident)
