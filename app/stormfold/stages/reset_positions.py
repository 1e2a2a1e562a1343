"""Forgets positions in topics that were created anew, so that they are read from their beginning.

A position is forgotten only where the topic contradicts it: it ends before it, or another record stands there.
"""

from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from stormfold.errors import ActionRequired
from stormfold.kafka.client import client_options
from stormfold.kafka.committed import CommitMetadata, Committed, read_committed
from stormfold.kafka.reader import TopicReader, open_reader
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.stages.intake import intake_positions


async def forget(settings: Settings, store: Store) -> list[str]:
    """Forgets what is contradicted; returns the topic-partitions. Raises `ActionRequired` while workers still run."""
    read = await intake_positions(settings, store)
    forgotten = await _forget_committed(settings, "intake", settings.alerts_topic, read)
    forgotten += await _forget_folded(settings, store)
    written = await read_committed(settings, settings.consumer_group("emit"), settings.storms_topic)
    return forgotten + await _forget_committed(settings, "emit", settings.storms_topic, written)


async def _forget_committed(settings: Settings, stage: str, topic: str, committed: Committed) -> list[str]:
    async with open_reader(settings) as tail:
        wrong = {
            partition: note
            for partition, (offset, note) in committed.items()
            if await _contradicts(tail, topic, partition, offset, note.timestamp)
        }
    if wrong:
        # Origins go on from where they were, or the new records would pass for duplicates.
        notes = {
            p: CommitMetadata(event_time=note.event_time, offset_base=note.offset_base + committed[p][0])
            for p, note in wrong.items()
        }
        await _commit(settings, settings.consumer_group(stage), topic, notes)
    return [f"{topic}-{p}" for p in sorted(wrong)]


async def _forget_folded(settings: Settings, store: Store) -> list[str]:
    state = await store.load()
    topic = settings.keyed_topic
    if state is None:
        return []
    async with open_reader(settings) as tail:
        wrong = [
            partition
            for partition, at in state.positions.items()
            if await _contradicts(tail, topic, partition, at.offset, at.timestamp)
        ]
    await store.reset_positions(state.epoch, wrong)
    return [f"{topic}-{p}" for p in sorted(wrong)]


async def _contradicts(tail: TopicReader, topic: str, partition: int, offset: int, timestamp: int) -> bool:
    """Whether the partition can't be the one that was read up to `offset`, its last record of `timestamp` (ms)."""
    begin, end = (await tail.begins(topic))[partition], (await tail.ends(topic))[partition]
    if offset > end:
        return True
    if offset <= begin or timestamp < 0:
        return False
    record = await tail.first_from(topic, partition, offset - 1)
    return bool(record.offset == offset - 1 and record.timestamp != timestamp)


async def _commit(settings: Settings, group: str, topic: str, notes: Mapping[int, CommitMetadata]) -> None:
    """Commits offset 0 for a group. Raises `ActionRequired` if it has members."""
    consumer = AIOKafkaConsumer(**client_options(settings), group_id=group, enable_auto_commit=False)
    try:
        await consumer.start()
        offsets = {TopicPartition(topic, p): OffsetAndMetadata(0, note.encode()) for p, note in notes.items()}
        consumer.assign(list(offsets))
        await consumer.commit(offsets)
    except KafkaError as error:
        raise ActionRequired(f"consumer group {group} is in use: {error}", "stop the workers first") from error
    finally:
        await consumer.stop()
