"""Which epoch stands, and when a new one must be opened: Redis empty or behind, or settings changed after draining."""

from collections.abc import Mapping
from contextlib import suppress

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from stormfold import metrics
from stormfold.errors import Retry
from stormfold.kafka.committed import Committed, newest_closed_before, newest_metadata, read_committed
from stormfold.kafka.topics import partitions_of
from stormfold.positions import Position
from stormfold.redis.store import Clock, PendingWindows, RedisOutOfMemory, State, StateVersion, Store
from stormfold.settings import Settings
from stormfold.window import Rebuild, Windows

log = structlog.get_logger(__name__)


async def ensure_state_version(
    store: Store, consumer: AIOKafkaConsumer, settings: Settings, windows: Windows, started: int
) -> State:
    """The state to fold on; opens a new epoch where the one in Redis is missing or can't be continued.

    `consumer` is only asked about offsets. `started` is when the worker with these windows was (ms): of several those
    of the last one shall hold. Raises `Retry` (also when somebody else opened one first) or `ActionRequired`.
    """
    group = settings.consumer_group("fold")
    committed = await read_committed(settings, group, settings.keyed_topic)
    state = await store.load()
    if state is not None:
        why = await _unusable(state, store, consumer, settings, committed)
        if why is None:
            await _ask(state, store, consumer, settings, windows, started)
            return state
        log.warning("the epoch in Redis can't be continued", epoch=state.epoch.number, why=why)
    partitions = await keyed_partitions(settings, committed)
    before = state.epoch.number if state else None
    last = newest_metadata(committed)
    known = max(before or 0, last.state_version)
    # The number after the last known may have been that of other windows, lost before anybody committed it.
    number = known + 2 if known else 1
    closed = newest_closed_before(committed)
    # What was closed was cut under the windows of then; others have to wait until all of it is read again.
    holding, by = (windows, started) if last.windows is None else (last.windows, 0)
    # C inside a bucket is S: the bucket's alerts from there on are not closed, those before it are skipped.
    rebuild = None if closed is None else Rebuild.of(holding.bucket(closed), holding)
    starts = await _starts(consumer, settings, committed, partitions, rebuild)
    epoch = StateVersion(number, holding, len(partitions), rebuild, last.windows_since, by)
    opened = await store.open_state_version(before, epoch, {p: Position(o, -1) for p, o in starts.items()})
    if opened:
        metrics.STATE_VERSIONS_OPENED.labels("first" if number == 1 else "rebuild").inc()
        log.warning("opened an epoch", epoch=number, closed=closed, starts=starts)
        await store.sweep(number)
    state = await store.load()
    if state is None:
        raise Retry("the epoch just opened is gone")
    await _ask(state, store, consumer, settings, windows, started)
    return state


async def keyed_partitions(settings: Settings, committed: Committed) -> range:
    """As many as the epoch before had, also if the topic has got more since: what was sent once and is sent again would
    be in another one then, and counted twice."""
    there = await partitions_of(settings, settings.keyed_topic)
    before = newest_metadata(committed).keyed_partitions
    return there[:before] if before else there


async def _ask(
    state: State, store: Store, consumer: AIOKafkaConsumer, settings: Settings, windows: Windows, started: int
) -> None:
    """Asks for the configured windows, unless those of a worker that was started later hold or are asked for.

    So configurations side by side can't take turns. Asked with the ends of the log: what is before them may have been
    published under the windows that stand, and Redis may have to read it again.
    """
    epoch = state.epoch
    asked = await store.asked(epoch)
    wanted, by = (epoch.windows, epoch.by) if asked is None else (asked.windows, asked.by)
    if windows != wanted and started > by:
        wanted, by = windows, started
        log.warning("other windows are asked for; they hold once nothing is open", epoch=epoch.number, windows=windows)
    elif windows != wanted:
        log.warning("other windows than the configured ones hold: a worker started later has them", windows=wanted)
    if asked is None and wanted == epoch.windows:
        return
    ends = await consumer.end_offsets([TopicPartition(settings.keyed_topic, p) for p in state.positions])
    # A full Redis has other worries; whoever is placed next asks again.
    with suppress(RedisOutOfMemory):
        await store.ask(epoch, PendingWindows(wanted, by, {tp.partition: end for tp, end in ends.items()}))


async def change_windows(store: Store, epoch: StateVersion) -> bool:
    """Goes on under windows that were asked for, if nothing is open: what is closed stays as it was cut."""
    changed = await store.change_windows(epoch)
    if changed:
        metrics.STATE_VERSIONS_OPENED.labels("windows").inc()
        log.warning("opened an epoch with other windows", epoch=epoch.number + 1)
        await store.sweep(epoch.number + 1)
    return changed


def closed_until(epoch: StateVersion, clock: Clock) -> int | None:
    """C: start of the bucket that holds min(W, first bucket of the oldest open group).

    Every storm that begins before it is closed and published. Never before S: there were other buckets. None while
    there is no horizon and never was.
    """
    floors = (epoch.since, None if epoch.rebuild is None else epoch.rebuild.closed_before)
    before = max((floor for floor in floors if floor is not None), default=None)
    if clock.horizon is None:
        return before
    reached = epoch.windows.bucket(clock.horizon - epoch.windows.grace)
    if clock.first_open is not None:
        reached = min(reached, clock.first_open)
    return reached if before is None else max(before, reached)


async def newest_horizon(settings: Settings, clock: Clock) -> int | None:
    """The latest horizon that Redis has or a commit of fold carries: what was final at it is closed for good."""
    committed = await read_committed(settings, settings.consumer_group("fold"), settings.keyed_topic)
    return max(filter(None, (clock.horizon, *(note.horizon for _, note in committed.values()))), default=None)


async def _unusable(
    state: State, store: Store, consumer: AIOKafkaConsumer, settings: Settings, committed: Committed
) -> str | None:
    topic = settings.keyed_topic
    begins = await consumer.beginning_offsets([TopicPartition(topic, p) for p in state.positions])
    for tp, begin in begins.items():
        if state.positions[tp.partition].offset < begin:
            return f"{tp.topic}-{tp.partition} begins at {begin}, after the position in Redis"
    last = newest_metadata(committed).state_version
    if last > state.epoch.number:
        return f"epoch {last} came after it"
    newest = newest_closed_before(committed)
    if newest is not None:
        closed = closed_until(state.epoch, await store.clock(state.epoch))
        if closed is None or closed < newest - state.epoch.windows.slice_length:
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
    found = await consumer.offsets_for_times({tp: max(0, rebuild.rebuild_from) for tp in tps})
    starts = {}
    for tp in tps:
        appended = found[tp].offset if found.get(tp) is not None else ends[tp]
        offset = committed[tp.partition][0] if tp.partition in committed else begins[tp]
        starts[tp.partition] = max(begins[tp], min(appended, offset))
    return starts
