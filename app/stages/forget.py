"""Forgets positions in topics that were created anew, so that they are read from their beginning.

A position is forgotten only where the topic contradicts it: it ends before it, or another record stands there.
"""

import asyncio

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from app.errors import Stop
from app.kafka.client import broker_error, client_options
from app.kafka.committed import Committed, Note, read_committed
from app.settings import Settings
from app.stages.intake import intake_positions
from app.store.redis import Store

FETCH_TIMEOUT = 5.0
"""Seconds to wait for the one record that is compared."""


async def forget(settings: Settings, store: Store) -> list[str]:
    """Forgets what is contradicted; returns the topic-partitions. Raises `Stop` while workers still run."""
    read = await intake_positions(settings, store)
    forgotten = await _forget_committed(settings, "intake", settings.alerts_topic, read)
    forgotten += await _forget_folded(settings, store)
    written = await read_committed(settings, settings.consumer_group("emit"), settings.storms_topic)
    return forgotten + await _forget_committed(settings, "emit", settings.storms_topic, written)


async def _forget_committed(settings: Settings, stage: str, topic: str, committed: Committed) -> list[str]:
    async with _Topic(settings, topic, settings.consumer_group(stage)) as read:
        wrong = {p: note for p, (offset, note) in committed.items() if await read.contradicts(p, offset, note.t)}
        await read.commit(
            # Origins go on from where they were, or the new records would pass for duplicates.
            {p: (0, Note(e=note.e, b=note.b + committed[p][0])) for p, note in wrong.items()}
        )
    return [f"{topic}-{p}" for p in sorted(wrong)]


async def _forget_folded(settings: Settings, store: Store) -> list[str]:
    state = await store.load()
    topic = settings.keyed_topic
    if state is None:
        return []
    async with _Topic(settings, topic) as read:
        wrong = [p for p, at in state.positions.items() if await read.contradicts(p, at.offset, at.timestamp)]
    await store.reset_positions(state.epoch, wrong)
    return [f"{topic}-{p}" for p in sorted(wrong)]


class _Topic:
    """Reads single records of a topic, and commits for a group that nobody is a member of."""

    def __init__(self, settings: Settings, topic: str, group: str | None = None) -> None:
        self._settings = settings
        self._topic = topic
        self._group = group

    async def __aenter__(self) -> "_Topic":
        self._consumer = AIOKafkaConsumer(
            **client_options(self._settings), group_id=self._group, enable_auto_commit=False
        )
        try:
            await self._consumer.start()
        except (KafkaError, OSError) as error:
            raise broker_error(error, self._settings) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def contradicts(self, partition: int, offset: int, timestamp: int) -> bool:
        """Whether the partition can't be the one that was read up to `offset`, its last record of `timestamp` (ms)."""
        tp = TopicPartition(self._topic, partition)
        begin = (await self._consumer.beginning_offsets([tp]))[tp]
        end = (await self._consumer.end_offsets([tp]))[tp]
        if offset > end:
            return True
        if offset <= begin or timestamp < 0:
            return False
        self._consumer.assign([tp])
        self._consumer.seek(tp, offset - 1)
        record = await asyncio.wait_for(self._consumer.getone(tp), FETCH_TIMEOUT)
        return bool(record.offset == offset - 1 and record.timestamp != timestamp)

    async def commit(self, offsets: dict[int, tuple[int, Note]]) -> None:
        """Commits for the group. Raises `Stop` if it has members."""
        if not offsets:
            return
        tps = {TopicPartition(self._topic, p): value for p, value in offsets.items()}
        self._consumer.assign(list(tps))
        try:
            await self._consumer.commit({tp: OffsetAndMetadata(o, note.encode()) for tp, (o, note) in tps.items()})
        except KafkaError as error:
            raise Stop(f"consumer group {self._group} is in use: {error}", "stop the workers first") from error
