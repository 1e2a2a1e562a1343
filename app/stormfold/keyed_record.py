"""The records of `alerts-by-fingerprint`: an alert with its event time and origin, or marks of progress.

Layout of an alert: a fixed head (kind, flags, event time, origin), then the body, a msgpack array that is the same
bytes for every alert of a series, so that both ends keep it in a memo. Marks: one kind byte, then msgpack.
"""

import struct
from typing import Annotated

import msgspec

from stormfold.decoding import read

ALERT = 1
MARKS = 2
RESOLVED = 1
LATE = 2

HEAD = struct.Struct(">BBQIQI")
"""kind, flags, event time (ms), alerts partition, offset, index in the record."""
LAST_TIME = 253_402_300_799_999
"""Event times (ms) end with the year 9999: later ones can't be written as a date, and Lua's numbers lose digits."""

Time = Annotated[int, msgspec.Meta(ge=0, le=LAST_TIME)]
"""An event time (ms)."""
_Number = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
"""Of a partition, or of partitions, as Kafka has them."""


class Body(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is the same for every alert of a series."""

    fingerprint: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    """8 bytes, big-endian."""
    group: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{20}\Z")]
    """Identity of the group, `storm.group_id`."""
    meta: bytes
    """`GroupMeta` in msgpack."""
    rank: Annotated[int, msgspec.Meta(ge=0, le=255)]
    """Place of the severity in the configured order, 0 the highest."""
    severity: str
    """Its name; unknown ones count as the last of the order."""
    resource: bytes
    """`Resource` in msgpack, or empty."""
    example: bytes
    """`Example` as JSON, cut to size."""


class GroupMeta(msgspec.Struct, frozen=True, array_like=True):
    """What the closer needs to know of a group; decided at intake, so that the log alone decides the result."""

    route: str
    """Name of the route that took it."""
    labels: dict[str, str]
    """Those it is grouped by."""
    namespace: str
    """Where its storms become resources."""
    silenced: bool
    """Silenced alerts are groups of their own."""
    storm_alerts: int
    """Distinct firing fingerprints that make a storm."""
    storm_resources: int
    """Distinct resources of firing alerts that make a storm."""


class Marks(msgspec.Struct, frozen=True, array_like=True):
    """Progress of alerts partitions: everything sent after this record is stamped at or after it, less the grace."""

    partitions: _Number
    """How many partitions `alerts` has."""
    progress: dict[_Number, Time]
    """Alerts partition → event time reached (ms)."""
    grace: Time = 0
    """The grace under which what follows is stamped (ms); 0 in marks of a version that did not tell."""


def encode_alert(body: bytes, time: int, resolved: bool, late: bool, partition: int, offset: int, index: int) -> bytes:
    """The value of an alert's keyed record; `body` is an encoded `Body`."""
    return HEAD.pack(ALERT, RESOLVED * resolved | LATE * late, time, partition, offset, index) + body


_marks_encoder = msgspec.msgpack.Encoder()
_marks_decoder = msgspec.msgpack.Decoder(Marks)


def encode_marks(marks: Marks) -> bytes:
    """The value of a marks record."""
    return bytes((MARKS,)) + _marks_encoder.encode(marks)


def decode_marks(value: bytes) -> Marks:
    """Reads a marks record; raises `Malformed` if it isn't one."""
    return read(_marks_decoder.decode, value[1:])
