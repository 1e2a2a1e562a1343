"""The offsets that a consumer group has committed, with their metadata, which a consumer does not return."""

import asyncio
import time

import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError

from stormfold.decoding import Malformed, decode_untrusted
from stormfold.kafka.client import open_admin
from stormfold.settings import Settings
from stormfold.window import Windows

COORDINATOR_SECONDS = 10.0
"""Longest wait for a group's coordinator: a new broker creates the topic for offsets when the first group asks."""
_NO_COORDINATOR = (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError)


class CommitMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata of a committed offset (times in ms). It outlives Redis."""

    event_time: int | None = msgspec.field(default=None, name="e")
    """Intake: event time reached in this partition of `alerts`."""
    closed_before: int | None = msgspec.field(default=None, name="c")
    """Fold: every aggregate that begins before this time is closed and published. Correlate: so are its incidents, as
    far as they are final."""
    horizon: int | None = msgspec.field(default=None, name="h")
    """Fold: the horizon. Intake assigns no event time before it."""
    state_version: int = msgspec.field(default=0, name="n")
    """Fold: number of the state version."""
    keyed_partitions: int = msgspec.field(default=0, name="k")
    """Fold: number of keyed partitions of the state version. A series must stay in its partition."""
    windows: Windows | None = msgspec.field(default=None, name="w")
    """Fold: the windows of the state version, which also hold for what was closed and published."""
    windows_since: int | None = msgspec.field(default=None, name="s")
    """Fold: alerts before this time were counted under other windows. None if there never were others."""
    offset_base: int = msgspec.field(default=0, name="b")
    """Intake: added to offsets in source positions, so that they ascend although `alerts` was created again."""
    timestamp: int = msgspec.field(default=-1, name="t")
    """Timestamp of the record before the offset."""
    needed: int | None = msgspec.field(default=None, name="i")
    """Correlate: offset of the first record whose incident is not published, or might list it."""

    def encode(self) -> str:
        """Returns the text that a commit carries."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: str) -> "CommitMetadata":
        """Reads the text of a commit; anything else, such as another client's, is read as empty."""
        try:
            return decode_untrusted(_decoder.decode, text)
        except Malformed:
            return cls()


_decoder = msgspec.json.Decoder(CommitMetadata)

Committed = dict[int, tuple[int, CommitMetadata]]
"""Partition → next offset and metadata."""


def newest_closed_before(committed: Committed) -> int | None:
    """The latest `closed_before` of all partitions; None if no commit has one."""
    times = (metadata.closed_before for _, metadata in committed.values() if metadata.closed_before is not None)
    return max(times, default=None)


def newest_metadata(committed: Committed) -> CommitMetadata:
    """Metadata of the newest state version, preferably with windows; empty if there is none."""
    return max(
        (metadata for _, metadata in committed.values()),
        key=lambda metadata: (metadata.state_version, metadata.windows is not None),
        default=CommitMetadata(),
    )


async def read_committed(settings: Settings, group: str, topic: str) -> Committed:
    """Reads a group's offsets of a topic. Raises `Retry` or `ActionRequired`."""
    async with open_admin(settings) as admin:
        return await committed_offsets(admin, group, topic)


async def committed_offsets(admin: AIOKafkaAdminClient, group: str, topic: str) -> Committed:
    """Reads a group's offsets of a topic with a started client. Raises aiokafka's errors."""
    deadline = time.monotonic() + COORDINATOR_SECONDS
    while True:
        try:
            found = await admin.list_consumer_group_offsets(group)
            break
        except _NO_COORDINATOR:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
    return {
        tp.partition: (value.offset, CommitMetadata.decode(value.metadata))
        for tp, value in found.items()
        if tp.topic == topic and value.offset >= 0
    }
