"""Finds the state version to continue, and opens a new one where Redis is empty or behind, or windows change."""

from collections.abc import Iterable
from contextlib import suppress

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from stormfold import metrics
from stormfold.config import LoadedConfig
from stormfold.errors import Retry
from stormfold.kafka.committed import Committed, newest_closed_before, newest_metadata, read_committed
from stormfold.kafka.topics import partitions_of
from stormfold.positions import Closed, Position, expired_positions, reason_to_rebuild
from stormfold.redis.clock import Clock
from stormfold.redis.errors import RedisOutOfMemory
from stormfold.redis.store import Store
from stormfold.redis.versions import PendingWindows, State, StateVersion
from stormfold.settings import Settings
from stormfold.stages.skip_expired import skip_expired
from stormfold.window import Rebuild, Windows

log = structlog.get_logger(__name__)


async def ensure_state_version(
    store: Store, consumer: AIOKafkaConsumer, settings: Settings, loaded: LoadedConfig
) -> State:
    """The state to continue; opens a new state version where the one in Redis is missing or cannot be continued.

    `consumer` is used only to look up offsets. Requests the windows of `loaded`: those that a worker loaded last apply.
    Raises `Retry`, also if another worker opened a version first, or `ActionRequired`.
    """
    windows, loaded_at = loaded.config.windows, loaded.windows_at
    await skip_expired(store, consumer, settings)
    committed = await read_committed(settings, settings.consumer_group("fold"), settings.keyed_topic)
    state = await store.load()
    reason = None if state is None else await _reason_to_rebuild(state, store, consumer, settings, committed)
    if state is None or reason is not None:
        if state is not None:
            log.warning("cannot continue the state version in Redis", version=state.version.number, reason=reason)
        version = await _open(state, store, consumer, settings, committed, windows, loaded_at)
        state = await store.load()
        if state is None:
            raise Retry(f"state version {version.number} disappeared from Redis after it was opened")
    # Also of a state that is continued: its sweep may have failed.
    await store.sweep_once(state.version.number)
    await _request_windows(state, store, consumer, settings, windows, loaded_at)
    return state


async def _open(
    state: State | None, store: Store, consumer: AIOKafkaConsumer, settings: Settings, committed: Committed,
    windows: Windows, loaded_at: int,
) -> StateVersion:  # fmt: skip
    """Opens a state version that continues from the commits; it may also be another worker that opens one."""
    known = state.version.number if state else None
    last = newest_metadata(committed)
    other = 0 if state else await store.other_layout()
    if other:
        log.warning(
            "the state version in Redis was written by another release, which must not run any more", version=other
        )
    newest = max(known or other, last.state_version)
    # A change of windows may have used the next number, and Redis lost it before any commit had it.
    number = newest + 2 if newest else 1
    closed_before = newest_closed_before(committed)
    # What is closed was cut under the windows of that time: others must wait until all of it has been read again.
    current, requested_at = (windows, loaded_at) if last.windows is None else (last.windows, 0)
    # If `closed_before` lies inside a bucket, it is `windows_since`: alerts of the bucket from then on are not closed
    # yet, those before it are skipped.
    rebuild = None if closed_before is None else Rebuild.of(current.bucket(closed_before), current)
    partitions = await keyed_partitions(settings, committed)
    starts = await _starts(consumer, settings, committed, partitions, rebuild)
    version = StateVersion(number, current, len(partitions), rebuild, last.windows_since, requested_at)
    if await store.open_state_version(known, version, starts):
        metrics.STATE_VERSIONS_OPENED.labels("first" if number == 1 else "rebuild").inc()
        offsets = {partition: start.offset for partition, start in starts.items()}
        log.warning("opened a state version", version=number, closed_before=closed_before, starts=offsets)
    return version


async def keyed_partitions(settings: Settings, committed: Committed) -> range:
    """Partitions of the keyed topic that a state version reads.

    They stay the same if the topic gets more: alerts that are sent again would be in another partition and be counted
    twice.
    """
    present = await partitions_of(settings, settings.keyed_topic)
    before = newest_metadata(committed).keyed_partitions
    return present[:before] if before else present


async def _request_windows(
    state: State, store: Store, consumer: AIOKafkaConsumer, settings: Settings, windows: Windows, loaded_at: int
) -> None:
    """Requests the configured windows, unless a worker that loaded its windows later has or requested others.

    So two configurations that run at the same time do not alternate. The request has the ends of the log: alerts before
    them may have been published under the current windows, and Redis may have to read them again.
    """
    version = state.version
    pending = await store.pending_windows(version)
    wanted, requested_at = version.windows, version.requested_at
    if pending is not None:
        wanted, requested_at = pending.windows, pending.requested_at
    if windows != wanted and loaded_at > requested_at:
        wanted, requested_at = windows, loaded_at
        log.warning("windows change as soon as no group is open", version=version.number, windows=windows)
    elif windows != wanted:
        log.warning(
            "windows differ from the configured ones: another worker loaded its configuration later", windows=wanted
        )
    if pending is None and wanted == version.windows:
        return
    ends = await consumer.end_offsets(_topic_partitions(settings, state.positions))
    # A full Redis refuses it; the next assignment of partitions requests them again.
    with suppress(RedisOutOfMemory):
        await store.request_windows(
            version, PendingWindows(wanted, requested_at, {tp.partition: end for tp, end in ends.items()})
        )


async def change_windows(settings: Settings, store: Store, version: StateVersion) -> bool:
    """Opens the next state version under requested windows, if nothing is open: closed segments keep their cuts.

    Not while Redis is behind fold's commits. Then it went back, and what was closed since is folded again first.
    """
    if await store.pending_windows(version) is None:
        return False
    committed = await read_committed(settings, settings.consumer_group("fold"), settings.keyed_topic)
    offsets = {partition: offset for partition, (offset, _) in committed.items()}
    changed = await store.change_windows(version, offsets, newest_closed_before(committed))
    if changed:
        metrics.STATE_VERSIONS_OPENED.labels("windows").inc()
        log.warning("opened a state version with other windows", version=version.number + 1)
        await store.sweep_once(version.number + 1)
    return changed


def closed_before(version: StateVersion, clock: Clock) -> int | None:
    """Start of the bucket that holds min(watermark, first bucket of the oldest open group), in ms.

    Every segment that begins before it is closed and published. Never before `windows_since`, as buckets were
    others then. None before the first horizon.
    """
    lower_bounds = (version.windows_since, None if version.rebuild is None else version.rebuild.closed_before)
    earliest = max((time for time in lower_bounds if time is not None), default=None)
    if clock.horizon is None:
        return earliest
    reached = version.windows.bucket(clock.horizon - version.windows.grace)
    if clock.first_open is not None:
        reached = min(reached, clock.first_open)
    return reached if earliest is None else max(earliest, reached)


async def newest_horizon(settings: Settings, clock: Clock) -> int | None:
    """The latest horizon in Redis or in a commit of fold (ms): segments that were final at it stay closed."""
    committed = await read_committed(settings, settings.consumer_group("fold"), settings.keyed_topic)
    return max(filter(None, (clock.horizon, *(metadata.horizon for _, metadata in committed.values()))), default=None)


async def _reason_to_rebuild(
    state: State, store: Store, consumer: AIOKafkaConsumer, settings: Settings, committed: Committed
) -> str | None:
    """Why the state cannot be continued; None if it can."""
    version = state.version
    begins = await consumer.beginning_offsets(_topic_partitions(settings, state.positions))
    expired = expired_positions(state.positions, {tp.partition: begin for tp, begin in begins.items()})
    stored = Closed(version.number, closed_before(version, await store.clock(version)))
    last = Closed(newest_metadata(committed).state_version, newest_closed_before(committed))
    return reason_to_rebuild(stored, last, expired, version.windows.slice_length)


async def _starts(
    consumer: AIOKafkaConsumer, settings: Settings, committed: Committed, partitions: range, rebuild: Rebuild | None
) -> dict[int, Position]:
    """Where a new state version begins to read each keyed partition."""
    tps = _topic_partitions(settings, partitions)
    begins: dict[TopicPartition, int] = await consumer.beginning_offsets(tps)
    if rebuild is None:
        return {tp.partition: Position(begins[tp]) for tp in tps}
    ends = await consumer.end_offsets(tps)
    found = await consumer.offsets_for_times({tp: max(0, rebuild.rebuild_from) for tp in tps})
    starts = {}
    for tp in tps:
        appended = found[tp].offset if found.get(tp) is not None else ends[tp]
        offset = committed[tp.partition][0] if tp.partition in committed else begins[tp]
        starts[tp.partition] = Position(max(begins[tp], min(appended, offset)))
    return starts


def _topic_partitions(settings: Settings, partitions: Iterable[int]) -> list[TopicPartition]:
    return [TopicPartition(settings.keyed_topic, partition) for partition in partitions]
