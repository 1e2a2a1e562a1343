"""The records of `alerts-by-fingerprint`: an alert with its event time and source position, or marks.

Layout of an alert: a fixed head (kind, flags, event time, source position), then the body, a msgpack array. The body
has the same bytes for every alert of a series, so that both ends can memoize it. Marks: one kind byte, then msgpack.
"""

import struct
from typing import Annotated

import msgspec

from stormfold.decoding import decode_untrusted
from stormfold.eventtime import EventTime

ALERT = 1
MARKS = 2
RESOLVED = 1
LATE = 2
NOT_QUALIFIED = 4
"""The alert does not qualify: it began too long before its event time, or is not severe enough. A firing alert without
this flag qualifies, so that records of writers that do not know it keep their meaning."""

HEAD = struct.Struct(">BBQIQI")
"""kind, flags, event time (ms), alerts partition, offset, index in the record."""

_pack_head = HEAD.pack

_PartitionNumber = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
"""Number of a partition, or of partitions, in Kafka's range."""


GroupId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{20}\Z")]
"""Form of `group.group_id`. Readers check it once for each group, as a check takes longer than to decode a body."""


class Body(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The part that every alert of a series has in common."""

    fingerprint: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    """8 bytes, big-endian."""
    group: str
    """Identity of the group, `group.group_id`."""
    meta: bytes
    """`GroupMeta` in msgpack."""
    rank: Annotated[int, msgspec.Meta(ge=0, le=255)]
    """Index of the severity in the configured order, 0 the highest."""
    severity: str
    """Its name in the configured order."""
    resource: bytes
    """`Resource` in msgpack, or empty."""
    example: bytes
    """`Example` as JSON, cut to size."""


class Marks(msgspec.Struct, frozen=True, array_like=True):
    """Progress of alerts partitions: the event time of every later record is at most the grace before it."""

    partitions: _PartitionNumber
    """How many partitions `alerts` has."""
    progress: dict[_PartitionNumber, EventTime]
    """Alerts partition → event time reached (ms)."""
    grace: EventTime = 0
    """The grace under which later alerts are stamped (ms); 0 if the writer did not report it."""


def encode_alert(
    body: bytes,
    time: int,
    resolved: bool,
    late: bool,
    partition: int,
    offset: int,
    index: int,
    not_qualified: bool = False,
) -> bytes:
    """The value of an alert's keyed record; `body` is an encoded `Body`."""
    flags = RESOLVED * resolved | LATE * late | NOT_QUALIFIED * not_qualified
    return pack_alert(body, time, flags, partition, offset, index)


def pack_alert(body: bytes, time: int, flags: int, partition: int, offset: int, index: int) -> bytes:
    """`encode_alert` with the flags as they are packed."""
    return _pack_head(ALERT, flags, time, partition, offset, index) + body


_marks_encoder = msgspec.msgpack.Encoder()
_marks_decoder = msgspec.msgpack.Decoder(Marks)


def encode_marks(marks: Marks) -> bytes:
    """The value of a marks record."""
    return bytes((MARKS,)) + _marks_encoder.encode(marks)


def decode_marks(value: bytes) -> Marks:
    """Reads a marks record; raises `Malformed` if it is not one."""
    return decode_untrusted(_marks_decoder.decode, value[1:])
