"""Retention took of the keyed topic what was not folded: goes on behind it, and keeps what Redis holds."""

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from stormfold.kafka.committed import read_committed
from stormfold.merge import Merged
from stormfold.redis.store import Limits, Move, Store
from stormfold.settings import Settings

log = structlog.get_logger(__name__)

_NOTHING = Merged(rows=[], origins={}, marks={}, alerts_partitions=0, overflow=[])


async def skip_expired(store: Store, consumer: AIOKafkaConsumer, settings: Settings) -> None:
    """Moves positions that lie before the log's beginning there, if Redis is as new as the commits.

    One that went back may hold what was closed since: it gets a new epoch. `consumer` is only asked about offsets; who
    reads a partition counts what it lost. Raises `Retry` or `ActionRequired`.
    """
    state = await store.load()
    if state is None:
        return
    topic = settings.keyed_topic
    begins = await consumer.beginning_offsets([TopicPartition(topic, p) for p in state.positions])
    passed = {tp.partition: begin for tp, begin in begins.items() if state.positions[tp.partition].offset < begin}
    if not passed:
        return
    committed = await read_committed(settings, settings.consumer_group("fold"), topic)
    if any(p in committed and committed[p][0] > at.offset for p, at in state.positions.items()):
        return
    log.warning("positions go on where the log begins", topic=topic, begins=passed)
    moves = [Move(p, state.positions[p].offset, begin, -1) for p, begin in passed.items()]
    await store.fold(state.epoch, moves, _NOTHING, Limits(max_fingerprints=0, max_groups=0))
