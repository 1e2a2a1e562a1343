"""What a consumer group has committed, with the metadata that the consumer drops: event time and C live there.

Intake commits `{"e": event time reached, "b": base of origins, "t": timestamp of the last record}`, fold
`{"c": C, "h": horizon, "n": number of the epoch, "k": its keyed partitions, "w": its windows, "s": S, "t": …}`.
"""

import asyncio
import time

import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)

from stormfold.decoding import Malformed, decode_untrusted
from stormfold.kafka.client import open_admin
from stormfold.settings import Settings
from stormfold.window import Windows

COORDINATOR_WAIT = 10.0
"""Seconds to wait for a group's coordinator: a new broker makes the topic for offsets when the first group asks."""
_COORDINATOR = (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError)


class CommitMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata of a committed offset (times in ms)."""

    e: int | None = None
    """Intake: event time reached in this partition of `alerts`."""
    c: int | None = None
    """Fold: C; every storm that begins before it is closed and published."""
    h: int | None = None
    """Fold: the horizon. It outlives Redis, so that intake stamps nothing before it."""
    n: int = 0
    """Fold: number of the epoch."""
    k: int = 0
    """Fold: how many keyed partitions that has. It outlives Redis: a series must stay in its partition."""
    w: Windows | None = None
    """Fold: the windows of the epoch; C and what was published are theirs. None in a note of a version without."""
    s: int | None = None
    """Fold: S; what is before it was counted under other windows. None if there never were others."""
    b: int = 0
    """Intake: added to offsets in origins, so that they ascend although `alerts` was created anew."""
    t: int = -1
    """Timestamp of the record before the offset."""

    def encode(self) -> str:
        """As the commit carries it."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: str) -> "CommitMetadata":
        """Reads one; whatever isn't one, such as another client's, counts as empty."""
        try:
            return decode_untrusted(_note.decode, text)
        except Malformed:
            return cls()


_note = msgspec.json.Decoder(CommitMetadata)

Committed = dict[int, tuple[int, CommitMetadata]]
"""Partition → next offset and note."""


def newest_closed(committed: Committed) -> int | None:
    """The newest C (ms): every storm that begins before it is closed and published. None if no commit has one."""
    return max((note.c for _, note in committed.values() if note.c is not None), default=None)


def newest_metadata(committed: Committed) -> CommitMetadata:
    """One of the newest epoch; an empty one if there is none."""
    return max(
        (note for _, note in committed.values()),
        key=lambda note: (note.n, note.w is not None),
        default=CommitMetadata(),
    )


async def read_committed(settings: Settings, group: str, topic: str) -> Committed:
    """Reads a group's offsets of a topic. Raises `Retry` or `ActionRequired`."""
    async with open_admin(settings) as admin:
        return await committed_offsets(admin, group, topic)


async def committed_offsets(admin: AIOKafkaAdminClient, group: str, topic: str) -> Committed:
    """The same from a client that is there."""
    until = time.monotonic() + COORDINATOR_WAIT
    while True:
        try:
            found = await admin.list_consumer_group_offsets(group)
            break
        except _COORDINATOR:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.2)
    return {
        tp.partition: (value.offset, CommitMetadata.decode(value.metadata))
        for tp, value in found.items()
        if tp.topic == topic and value.offset >= 0
    }
