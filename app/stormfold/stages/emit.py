"""Emit: records of one topic into a sink, each under its own name; what the sink rejects becomes a dead letter.

A lane writes the records of one partition for one namespace, in order. Lanes are independent: what cannot be written
now waits in its lane, and the commit of its partition waits with it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer

from stormfold import metrics
from stormfold.attempts import Attempts
from stormfold.decoding import Malformed
from stormfold.errors import ActionRequired, DeadLetter, Retry, StormfoldError
from stormfold.health import Health
from stormfold.kafka._patches import Record
from stormfold.kafka.batch import Batch
from stormfold.kafka.committed import read_committed
from stormfold.kafka.dlq import send_to_dlq
from stormfold.kafka.group_member import GroupMember
from stormfold.kafka.producer import Producer
from stormfold.manifest import event_times
from stormfold.positions import Position
from stormfold.settings import Settings
from stormfold.sinks import Outcome, Sink
from stormfold.sinks.kinds import STORMS
from stormfold.stages.blocked import BlockedNamespaces
from stormfold.stages.emitted import Emitted
from stormfold.stages.partition_queue import PartitionQueue
from stormfold.window import first_due

log = structlog.get_logger(__name__)

MIN_BACKOFF, MAX_BACKOFF = 0.5, 15.0
"""Seconds between two attempts to write the same record: doubled each time."""
ACTION_BACKOFF = 5.0
"""Seconds between two attempts while a permission or a resource definition is missing."""
COMMIT_INTERVAL = 0.5
"""Seconds between commits."""
WAITING_BYTES = 32 * 1024 * 1024
"""Memory for records that wait, of all partitions together. A partition is not read while it exceeds its share."""
DRAIN_SECONDS = 3.0
"""Longest wait for writes in progress before a commit at the end of an assignment."""
HANG_SECONDS = 45.0
"""A write that takes longer hangs: sinks have shorter timeouts. Nothing is polled then, and the stage is stale."""

Lane = tuple[int | None, str]
"""Partition and namespace; the partition is None for the check of a namespace."""


class Emit:
    """Writes one kind of resource. The state is how far each partition is written, which the commits have too."""

    def __init__(self, emitted: Emitted, settings: Settings, sink: Sink, health: Health, member: GroupMember) -> None:
        self._emitted = emitted
        self._settings = settings
        self._sink = sink
        self._member = member
        self._producer = Producer(settings, member.name)
        self._blocked = BlockedNamespaces(member.name, health)
        self._write_slots = asyncio.Semaphore(sink.concurrency)
        self._queues: dict[int, PartitionQueue] = {}
        self._tasks: dict[Lane, asyncio.Task[None]] = {}
        self._in_progress: dict[Lane, float] = {}
        """Lanes with a write in progress, and since when (monotonic, s)."""
        self._draining = False
        """Lanes end after their write in progress."""
        self._failure: Exception | None = None
        """An unexpected error of a lane."""
        self._checked: set[str] = set()
        """Namespaces that can be written, as far as the sink could check."""
        self._committed: dict[int, int] = {}
        self._committed_at = 0.0
        self._exported: set[str] = set()
        """Namespaces with an exported number of waiting records."""
        metrics.DEAD_LETTERS.labels(emitted.dlq_topic)

    async def start_positions(self, _consumer: AIOKafkaConsumer, partitions: set[int]) -> dict[int, Position | None]:
        """Continues from the commits."""
        await self._cancel()
        committed = await read_committed(self._settings, self._member.group, self._member.topic)
        self._queues, self._committed = {}, {p: committed[p][0] for p in partitions & committed.keys()}
        self._draining, self._failure = False, None
        return {p: Position(self._committed[p]) if p in self._committed else None for p in partitions}

    async def process(self, batch: Batch) -> bool:
        """Puts the records of a poll into their lanes; returns True, because they are written later.

        Raises the unexpected error of a lane, if there is one.
        """
        if self._failure is not None:
            raise self._failure
        if not self._member.is_current(batch):
            return True
        readable = self._member.positions.keys() - self._member.unread
        self._queues |= {p: PartitionQueue(self._member.positions[p]) for p in readable - self._queues.keys()}
        for partition, records in batch.records.items():
            for record in records:
                self._add(partition, record)
        for partition, end in batch.ends.items():
            if partition in self._queues:
                self._queues[partition].skip_to(end.offset)
        self._start_lanes(batch)
        share = WAITING_BYTES // max(1, len(self._queues))
        self._blocked.full = {partition for partition, queue in self._queues.items() if queue.bytes > share}
        self._member.set_paused(set(self._blocked.full))
        self._report()
        if time.monotonic() - self._committed_at >= COMMIT_INTERVAL:
            await self._commit()
        while self._hangs() and self._member.is_current(batch):
            await self._member.sleep_current(batch, 1.0)
        return True

    async def commit(self) -> None:
        """Ends every lane, after the write in progress if it ends soon, and commits."""
        self._draining = True
        if waiting := {self._tasks[lane] for lane in self._in_progress}:
            await asyncio.wait(waiting, timeout=DRAIN_SECONDS)
        await self._cancel()
        await self._commit()

    async def stop(self) -> None:
        await self._cancel()
        await self._producer.stop()
        await self._sink.close()

    async def _cancel(self) -> None:
        """Ends every lane. What was being written is written again, and found by its name."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Those that had not begun could not remove themselves.
        self._tasks.clear()
        self._blocked.clear()
        self._export({})

    async def _commit(self) -> None:
        """Commits the positions that changed."""
        assigned = self._member.assigned()
        positions = {partition: queue.position for partition, queue in self._queues.items() if partition in assigned}
        changed = {p: offset for p, offset in positions.items() if self._committed.get(p) != offset}
        self._committed_at = time.monotonic()
        if await self._member.commit({p: (offset, "") for p, offset in changed.items()}):
            self._committed |= changed

    def _report(self) -> None:
        """Moves the member's positions, from which the lag is computed, and reports what waits."""
        self._member.positions |= {partition: queue.position for partition, queue in self._queues.items()}
        waiting = dict.fromkeys(self._emitted.namespaces, 0)
        for queue in self._queues.values():
            for namespace, records in queue.waiting.items():
                if namespace in self._blocked:
                    waiting[namespace] = waiting.get(namespace, 0) + records
        self._export(waiting)
        self._blocked.report()

    def _export(self, waiting: Mapping[str, int]) -> None:
        for namespace in self._exported - waiting.keys():
            metrics.RESOURCES_WAITING.remove(self._emitted.kind.name, namespace)
        for namespace, records in waiting.items():
            metrics.RESOURCES_WAITING.labels(self._emitted.kind.name, namespace).set(records)
        self._exported = set(waiting)

    def _add(self, partition: int, record: Record) -> None:
        """Puts a record into its lane, unless there is nothing to write."""
        namespace = self._emitted.namespace_of(record)
        if namespace is None:
            self._queues[partition].skip_to(record.offset + 1)
        else:
            self._queues[partition].add(namespace, record)

    def _start_lanes(self, batch: Batch) -> None:
        lanes: list[Lane] = [(p, namespace) for p, queue in self._queues.items() for namespace in queue.waiting]
        lanes += [(None, namespace) for namespace in self._emitted.namespaces if namespace not in self._checked]
        for lane in lanes:
            if lane not in self._tasks:
                self._tasks[lane] = asyncio.create_task(self._run(batch, lane))

    async def _run(self, batch: Batch, lane: Lane) -> None:
        """Writes the records of a lane until it is empty."""
        partition, namespace = lane
        try:
            if partition is None:
                await self._persist(batch, lane, {"namespace": namespace}, lambda: self._check_configured(namespace))
                return
            queue = self._queues[partition]
            while (record := queue.first(namespace)) is not None:
                if not await self._write(batch, lane, record):
                    return
                queue.remove_first(namespace)
                if self._member.is_current(batch):
                    self._member.positions[partition] = queue.position
        except Exception as error:
            self._failure = error
        finally:
            self._tasks.pop(lane, None)

    async def _write(self, batch: Batch, lane: Lane, record: Record) -> bool:
        partition, namespace = lane
        place = f"{self._member.topic}-{partition}-{record.offset}"
        what = {"record": place, "resource": _name(record), "namespace": namespace}
        return await self._persist(batch, lane, what, lambda: self._write_once(place, namespace, record))

    async def _persist(
        self, batch: Batch, lane: Lane, what: Mapping[str, str], action: Callable[[], Awaitable[None]]
    ) -> bool:
        """Makes as many attempts as it takes; returns False if the batch is not current any more before it succeeds."""
        backoff, attempts, namespace = MIN_BACKOFF, Attempts(), lane[1]
        while self._member.is_current(batch) and not self._draining:
            try:
                # A lane that waits for its next attempt takes no slot from the others.
                async with self._slot(lane):
                    await action()
            except StormfoldError as error:
                required = isinstance(error, ActionRequired)
                metrics.SINK_ERRORS.labels(self._emitted.kind.name, "action_required" if required else "retry").inc()
                attempt = attempts.fail()
                if self._blocked.add(namespace, lane, error):
                    log.warning("cannot write", **what, error=str(error), hint=error.hint, **attempt)
                wanted = error.after if isinstance(error, Retry) else ACTION_BACKOFF
                await self._member.sleep_current(batch, wanted or backoff)
                backoff = min(backoff * 2, MAX_BACKOFF)
            else:
                self._blocked.remove(namespace, lane)
                if recovery := attempts.succeed():
                    log.info("written after retries", **what, **recovery)
                return True
        return False

    @asynccontextmanager
    async def _slot(self, lane: Lane) -> AsyncIterator[None]:
        async with AsyncExitStack() as slots:
            if lane[1] in self._blocked:
                await slots.enter_async_context(self._blocked.retry_slot(lane[1]))
            await slots.enter_async_context(self._write_slots)
            self._in_progress[lane] = time.monotonic()
            try:
                yield
            finally:
                del self._in_progress[lane]

    def _hangs(self) -> bool:
        oldest = min(self._in_progress.values(), default=time.monotonic())
        return time.monotonic() - oldest > HANG_SECONDS

    async def _check_configured(self, namespace: str) -> None:
        # It may not be configured any more.
        if namespace in self._emitted.namespaces:
            await self._check(namespace)

    async def _check(self, namespace: str) -> None:
        """Checks a namespace once: without the right definition, every resource would become a dead letter."""
        if namespace not in self._checked:
            await self._sink.check(namespace)
            self._checked.add(namespace)

    async def _write_once(self, place: str, namespace: str, record: Record) -> None:
        kind = self._emitted.kind
        try:
            manifest = self._emitted.decode(record)
            if namespace:
                await self._check(namespace)
            outcome = await self._sink.write(manifest, manifest["metadata"]["name"])
        except DeadLetter as reason:
            await send_to_dlq(self._producer, self._emitted.dlq_topic, record, place, str(reason))
            metrics.RESOURCES_WRITTEN.labels(kind.name, "dead_letter").inc()
            return
        metrics.RESOURCES_WRITTEN.labels(kind.name, outcome.value).inc()
        self._observe_latency(outcome, manifest, record.timestamp)

    def _observe_latency(self, outcome: Outcome, manifest: Mapping[str, Any], published: int) -> None:
        now, kind = time.time(), self._emitted.kind
        metrics.SINK_LATENCY_SECONDS.labels(kind.name).observe(max(0.0, now - published / 1000))
        if outcome is not Outcome.CREATED or kind is not STORMS:
            return
        # Records of other producers may lack fields.
        with suppress(Malformed):
            first_seen, last_seen = event_times(manifest)
            windows = self._emitted.config.windows
            due = first_due(windows.bucket(first_seen), last_seen, windows) + windows.grace
            metrics.STORM_LATENCY_SECONDS.observe(max(0.0, now - due / 1000))


def _name(record: Record) -> str:
    return (record.key or b"").decode(errors="replace")
