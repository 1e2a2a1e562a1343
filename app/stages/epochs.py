"""Which epoch stands, and when a new one must be opened: Redis empty or behind, or settings changed after draining."""

from collections.abc import Mapping
from dataclasses import replace

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from app import metrics
from app.errors import Retry
from app.kafka.committed import Committed, newest_closed, read_committed
from app.kafka.topics import partitions_of
from app.settings import Settings
from app.store.redis import Clock, Epoch, Position, State, Store
from app.window import Rebuild, Windows

log = structlog.get_logger(__name__)


async def ensure_epoch(store: Store, consumer: AIOKafkaConsumer, settings: Settings, windows: Windows) -> State:
    """The state to fold on; opens a new epoch where the one in Redis is missing or can't be continued.

    `consumer` is only asked about offsets. Raises `Retry` (also when somebody else opened one first) or `Stop`.
    """
    group = settings.consumer_group("fold")
    committed = await read_committed(settings, group, settings.keyed_topic)
    state = await store.load()
    if state is not None:
        why = await _unusable(state, store, consumer, settings, committed)
        if why is None:
            return await _with_windows(state, store, windows)
        log.warning("the epoch in Redis can't be continued", epoch=state.epoch.number, why=why)
    partitions = await keyed_partitions(settings, committed)
    before = state.epoch.number if state else None
    number = 1 + max([before or 0, *(note.n for _, note in committed.values())])
    closed = newest_closed(committed)
    rebuild = None if closed is None else Rebuild.of(closed, windows)
    starts = await _starts(consumer, settings, committed, partitions, rebuild)
    epoch = Epoch(number, windows, len(partitions), rebuild)
    opened = await store.open_epoch(before, epoch, {p: Position(o, -1) for p, o in starts.items()})
    if opened:
        metrics.EPOCHS_OPENED.labels("first" if number == 1 else "rebuild").inc()
        log.warning("opened an epoch", epoch=number, closed=closed, starts=starts)
        await store.sweep(number)
    state = await store.load()
    if state is None:
        raise Retry("the epoch just opened is gone")
    return state


async def keyed_partitions(settings: Settings, committed: Committed) -> range:
    """As many as the epoch before had, also if the topic has got more since: what was sent once and is sent again would
    be in another one then, and counted twice."""
    there = await partitions_of(settings, settings.keyed_topic)
    _, before = max(((note.n, note.k) for _, note in committed.values()), default=(0, 0))
    return there[:before] if before else there


async def _with_windows(state: State, store: Store, windows: Windows) -> State:
    if state.epoch.windows == windows:
        return state
    if await change_windows(store, state.epoch, windows):
        return await store.load() or state
    log.warning("other windows are configured; they hold once nothing is open", epoch=state.epoch.number)
    return state


async def change_windows(store: Store, epoch: Epoch, windows: Windows) -> bool:
    """Goes on under other windows, if nothing is open: what is closed stays as it was cut."""
    new = replace(epoch, number=epoch.number + 1, windows=windows)
    changed = await store.continue_epoch(epoch, new)
    if changed:
        metrics.EPOCHS_OPENED.labels("windows").inc()
        log.warning("opened an epoch with other windows", epoch=new.number, windows=windows)
        await store.sweep(new.number)
    return changed


def closed_until(epoch: Epoch, clock: Clock) -> int | None:
    """C: start of the bucket that holds min(W, first bucket of the oldest open group).

    Every storm that begins before it is closed and published. None while there is no horizon and never was.
    """
    before = None if epoch.rebuild is None else epoch.rebuild.closed
    if clock.horizon is None:
        return before
    reached = epoch.windows.bucket(clock.horizon - epoch.windows.grace)
    if clock.first_open is not None:
        reached = min(reached, clock.first_open)
    return reached if before is None else max(before, reached)


async def newest_horizon(settings: Settings, clock: Clock) -> int | None:
    """The latest horizon that Redis has or a commit of fold carries: what was final at it is closed for good."""
    committed = await read_committed(settings, settings.consumer_group("fold"), settings.keyed_topic)
    return max(filter(None, (clock.horizon, *(note.h for _, note in committed.values()))), default=None)


async def _unusable(
    state: State, store: Store, consumer: AIOKafkaConsumer, settings: Settings, committed: Committed
) -> str | None:
    topic = settings.keyed_topic
    begins = await consumer.beginning_offsets([TopicPartition(topic, p) for p in state.positions])
    for tp, begin in begins.items():
        if state.positions[tp.partition].offset < begin:
            return f"{tp.topic}-{tp.partition} begins at {begin}, after the position in Redis"
    newest = newest_closed(committed)
    if newest is not None:
        closed = closed_until(state.epoch, await store.clock(state.epoch))
        if closed is None or closed < newest - state.epoch.windows.slice:
            return f"it had closed storms until {closed}, but {newest} was committed"
    return None


async def _starts(
    consumer: AIOKafkaConsumer, settings: Settings, committed: Committed, partitions: range, rebuild: Rebuild | None
) -> Mapping[int, int]:
    tps = [TopicPartition(settings.keyed_topic, p) for p in partitions]
    begins: dict[TopicPartition, int] = await consumer.beginning_offsets(tps)
    if rebuild is None:
        return {tp.partition: begins[tp] for tp in tps}
    ends = await consumer.end_offsets(tps)
    found = await consumer.offsets_for_times({tp: max(0, rebuild.begin) for tp in tps})
    starts = {}
    for tp in tps:
        appended = found[tp].offset if found.get(tp) is not None else ends[tp]
        offset = committed[tp.partition][0] if tp.partition in committed else begins[tp]
        starts[tp.partition] = max(begins[tp], min(appended, offset))
    return starts
