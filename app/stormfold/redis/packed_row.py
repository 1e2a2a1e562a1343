"""The argument of fold.lua that has the alerts of a poll in one bucket: a row, packed."""

import struct
from collections.abc import Iterable

import msgpack

from stormfold.merge import Row
from stormfold.redis.layout import FLAG_VALUES

ROW = struct.Struct(">IQIQQBII")
"""Numbers of a packed row, the first of `ROW_FIELDS`."""
ROW_NUMBERS = 8
ROW_FIELDS = (
    "overflow", "due", "alerts", "first", "last", "rank", "late", "members",
    "group", "meta", "start", "severity", "example", "fingerprints", "numbers", "rests", "prefixes",
)  # fmt: skip
"""Values of a packed row, in this order: numbers, then strings, each after its length, a `LENGTH`. `members` is the
number of them; `fingerprints` and `rests` are those of all members, joined; `numbers` has `ROW_MEMBER` of each;
`prefixes` is a list in msgpack, see `split_resources`."""
LENGTH = struct.Struct(">I")
ROW_MEMBER = struct.Struct(">IIIII")
"""Alerts × `FLAG_VALUES` + flags, newest - bucket start (ms), index of a prefix from 1 or 0, bytes of the rest, and
its end in `rests`."""

MIN_PREFIX, MAX_PREFIX = 12, 128
"""Bytes of a prefix."""


def pack_row(row: Row) -> bytes:
    """A row as fold.lua takes it. The start is text, as Lua would write the number with an exponent."""
    members = row.members.values()
    prefix_numbers, rests, prefixes = split_resources([member[3] for member in members])
    numbers: list[int] = []
    end = 0
    for (alerts, last, flags, _), number, rest in zip(members, prefix_numbers, rests, strict=True):
        end += len(rest)
        numbers += (alerts * FLAG_VALUES + flags, last, number, len(rest), end)
    strings = (
        row.group.encode(), row.meta, str(row.start).encode(), row.severity.encode(), row.example,
        b"".join(row.members), struct.pack(f">{ROW_MEMBER.format[1:] * len(rests)}", *numbers), b"".join(rests),
        msgpack.packb(prefixes, use_bin_type=False),
    )  # fmt: skip
    head = ROW.pack(row.overflow, row.due, row.alerts, row.first, row.last, row.rank, row.late, len(rests))
    return head + b"".join([part for text in strings for part in (LENGTH.pack(len(text)), text)])


def split_resources(resources: Iterable[bytes]) -> tuple[list[int], list[bytes], list[bytes]]:
    """Splits resources in msgpack: the number of each one's prefix, the rest of each, and all prefixes.

    Resources of one storm differ only at the end: pods of a deployment after the last hyphen. A resource without a
    prefix has number 0 and is its own rest.
    """
    found: dict[bytes, int] = {}
    numbers, rests = [], []
    for resource in resources:
        end = resource.rfind(b"-") + 1
        if end < MIN_PREFIX:
            numbers.append(0)
            rests.append(resource)
        else:
            end = min(end, MAX_PREFIX)
            numbers.append(found.setdefault(resource[:end], len(found) + 1))
            rests.append(resource[end:])
    return numbers, rests, list(found)
