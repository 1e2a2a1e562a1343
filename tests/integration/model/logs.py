"""Keyed partitions without Kafka: records with offsets."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from stormfold.eventtime import PartitionPair
from stormfold.merge import SourcePosition
from tests.integration.model.plain import Alert


@dataclass
class Record:
    """What merging reads of a record."""

    offset: int
    value: bytes | None


class Sent(NamedTuple):
    """An alert, and where it came from."""

    alert: Alert
    pair: PartitionPair
    source: SourcePosition


def log(sent: Iterable[Sent]) -> dict[int, list[Record]]:
    """Keyed partitions with these alerts, in this order."""
    logs: dict[int, list[Record]] = {}
    for alert, (keyed, alerts), (offset, index) in sent:
        records = logs.setdefault(keyed, [])
        records.append(Record(len(records), alert.keyed(alerts, offset, index)))
    return logs
