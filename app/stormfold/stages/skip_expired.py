"""Moves positions to the beginning of the log where retention deleted keyed records that were not folded."""

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from stormfold.kafka.committed import read_committed
from stormfold.merge import Merged
from stormfold.positions import behind_commits, expired_positions
from stormfold.redis.fold import Limits, Move
from stormfold.redis.store import Store
from stormfold.settings import Settings

log = structlog.get_logger(__name__)

_NOTHING = Merged(rows=[], source_positions={}, marks={}, alerts_partitions=0, overflow=[])


async def skip_expired(store: Store, consumer: AIOKafkaConsumer, settings: Settings) -> None:
    """Moves expired positions and keeps the open groups, unless Redis is behind the commits.

    A Redis that went back may have groups open that were closed since: it needs a new state version. `consumer` is
    used only to look up offsets; it counts the loss when it reads the partition. Raises `Retry` or `ActionRequired`.
    """
    state = await store.load()
    if state is None:
        return
    topic = settings.keyed_topic
    begins = await consumer.beginning_offsets([TopicPartition(topic, p) for p in state.positions])
    expired = expired_positions(state.positions, {tp.partition: begin for tp, begin in begins.items()})
    if not expired:
        return
    committed = await read_committed(settings, settings.consumer_group("fold"), topic)
    if behind_commits(state.positions, {partition: offset for partition, (offset, _) in committed.items()}):
        return
    log.warning("records expired before they were folded: positions move to the log's beginning", topic=topic,
                begins=expired)  # fmt: skip
    moves = [Move(p, state.positions[p].offset, begin, -1) for p, begin in expired.items()]
    await store.fold(state.version, moves, _NOTHING, Limits(max_fingerprints=0, max_groups=0))
