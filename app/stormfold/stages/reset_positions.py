"""Resets positions in topics that were created again, so that they are read from their beginning.

Only positions that contradict their partition are reset; see `check_position`.
"""

from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from stormfold.errors import ActionRequired
from stormfold.kafka.client import client_options, start_client
from stormfold.kafka.committed import CommitMetadata, Committed, read_committed
from stormfold.kafka.reader import TopicReader, open_reader
from stormfold.kafka.topics import partitions_of
from stormfold.positions import Position, RecordTime, Verdict, check_position, offset_to_verify
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.sinks.kinds import INCIDENTS, STORMS
from stormfold.stages.intake import intake_positions
from stormfold.text import pluralize


async def reset_positions(settings: Settings, store: Store) -> list[str]:
    """Resets positions of all stages; returns the topic-partitions. Raises `ActionRequired` while workers run."""
    read = await intake_positions(settings, store)
    reset = await _reset_commits(settings, "intake", settings.alerts_topic, read)
    reset += await _reset_folded(settings, store)
    for stage, topic in (
        (STORMS.component, settings.storms_topic),
        ("correlate", settings.storms_topic),
        (INCIDENTS.component, settings.incidents_topic),
    ):
        written = await read_committed(settings, settings.consumer_group(stage), topic)
        reset += await _reset_commits(settings, stage, topic, written)
    return list(dict.fromkeys(reset))


async def _reset_commits(settings: Settings, stage: str, topic: str, committed: Committed) -> list[str]:
    positions = {partition: Position(offset, metadata.timestamp) for partition, (offset, metadata) in committed.items()}
    recreated = await _recreated(settings, topic, positions)
    if recreated:
        # Source positions continue from where they were: otherwise new records would be taken for duplicates.
        reset = {
            partition: CommitMetadata(event_time=before.event_time, offset_base=before.offset_base + offset)
            for partition, (offset, before) in committed.items()
            if partition in recreated
        }
        await _commit(settings, settings.consumer_group(stage), topic, reset)
    return [f"{topic}-{partition}" for partition in recreated]


async def _reset_folded(settings: Settings, store: Store) -> list[str]:
    state = await store.load()
    if state is None:
        return []
    present, needed = len(await partitions_of(settings, settings.keyed_topic)), state.version.partitions
    if present < needed:
        raise ActionRequired(
            f"{settings.keyed_topic} has {pluralize(present, 'partition')}, but the state in Redis is of {needed}",
            f"create it again with {needed} partitions, or add those that are missing",
        )
    recreated = await _recreated(settings, settings.keyed_topic, state.positions)
    await store.reset_positions(state.version, recreated)
    return [f"{settings.keyed_topic}-{partition}" for partition in recreated]


async def _recreated(settings: Settings, topic: str, positions: Mapping[int, Position]) -> list[int]:
    """Partitions that were created again, in order. Those that the topic does not have any more are left out."""
    async with open_reader(settings) as reader:
        begins, ends = await reader.beginning_offsets(topic), await reader.end_offsets(topic)
        verdicts = {
            p: await _verdict(reader, topic, p, positions[p], begins[p], ends[p])
            for p in sorted(positions.keys() & begins.keys())
        }
    return [partition for partition, verdict in verdicts.items() if verdict is Verdict.RECREATED]


async def _verdict(
    reader: TopicReader, topic: str, partition: int, position: Position, begin: int, end: int
) -> Verdict:
    verdict = check_position(position, begin, end)
    offset = offset_to_verify(position, begin)
    if verdict is Verdict.VALID and offset is not None:
        record = await reader.first_record(topic, partition, offset, end)
        before = None if record is None else RecordTime(record.offset, record.timestamp)
        verdict = check_position(position, begin, end, before)
    return verdict


async def _commit(settings: Settings, group: str, topic: str, reset: Mapping[int, CommitMetadata]) -> None:
    """Commits offset 0 for a group. Raises `ActionRequired` if it has members."""
    consumer = AIOKafkaConsumer(**client_options(settings), group_id=group, enable_auto_commit=False)
    try:
        await start_client(consumer, settings)
        offsets = {TopicPartition(topic, p): OffsetAndMetadata(0, metadata.encode()) for p, metadata in reset.items()}
        consumer.assign(list(offsets))
        await consumer.commit(offsets)
    except KafkaError as error:
        raise ActionRequired(f"consumer group {group} is in use: {error}", "stop the workers first") from error
    finally:
        await consumer.stop()
