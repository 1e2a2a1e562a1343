"""What one poll brings to a stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stormfold.kafka._patches import Record

Records = Mapping[int, Sequence[Record]]
"""By partition; offsets ascend."""


class PartitionEnd(NamedTuple):
    """A partition has been read to its end."""

    as_of: int
    """Wall-clock time (ms) at which that was so: when the end was requested, not when the answer arrived. An answer may
    be under way for long, or wait for a frozen worker."""
    offset: int
    """The end. It is after the last record if a transaction's marker follows that."""


@dataclass(slots=True)
class Batch:
    """What one poll brought."""

    generation: int
    records: Records
    ends: dict[int, PartitionEnd]
    """The partitions that end with these records."""
