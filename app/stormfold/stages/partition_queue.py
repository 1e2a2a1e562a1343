"""The records of one partition that are not written yet: in order for each namespace, whatever the others wait for."""

from collections import deque

from stormfold.kafka._patches import Record

RECORD_OVERHEAD = 1_000
"""Bytes of memory that a record takes in addition to its value."""


class PartitionQueue:
    """Records by namespace. Everything before `position` is written, so that is what may be committed."""

    def __init__(self, position: int) -> None:
        self._end = position
        self._records: dict[str, deque[Record]] = {}
        self.bytes = 0
        """Approximate memory that the records take."""

    @property
    def position(self) -> int:
        """Offset of the first record that is not written, or of the next to read."""
        return min((records[0].offset for records in self._records.values()), default=self._end)

    @property
    def waiting(self) -> dict[str, int]:
        """Number of records by namespace."""
        return {namespace: len(records) for namespace, records in self._records.items()}

    def add(self, namespace: str, record: Record) -> None:
        """Appends a record; offsets ascend."""
        self._records.setdefault(namespace, deque()).append(record)
        self.bytes += _size(record)
        self._end = record.offset + 1

    def skip_to(self, offset: int) -> None:
        """Nothing before `offset` follows any more."""
        self._end = max(self._end, offset)

    def first(self, namespace: str) -> Record | None:
        """The next record of a namespace to write; None if there is none."""
        records = self._records.get(namespace)
        return records[0] if records else None

    def remove_first(self, namespace: str) -> None:
        """Removes that record: it is written."""
        records = self._records[namespace]
        self.bytes -= _size(records.popleft())
        if not records:
            del self._records[namespace]


def _size(record: Record) -> int:
    return len(record.value or b"") + RECORD_OVERHEAD
