"""Emit: aggregates into the sink, each under its own name, in order; what the sink rejects becomes a dead letter."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer

from stormfold import metrics
from stormfold.attempts import Attempts
from stormfold.config import ReloadableConfig
from stormfold.decoding import Malformed, decode_untrusted
from stormfold.errors import ActionRequired, DeadLetter, Retry, StormfoldError
from stormfold.health import Health
from stormfold.kafka._patches import Record
from stormfold.kafka.batch import Batch
from stormfold.kafka.committed import read_committed
from stormfold.kafka.dlq import send_to_dlq
from stormfold.kafka.group_member import GroupMember
from stormfold.kafka.producer import Producer
from stormfold.manifest import from_manifest
from stormfold.positions import Position
from stormfold.settings import Settings
from stormfold.sinks import Outcome, Sink
from stormfold.window import first_due

log = structlog.get_logger(__name__)

MIN_BACKOFF, MAX_BACKOFF = 0.5, 15.0
"""Seconds between two attempts to write the same aggregate: doubled each time."""
ACTION_BACKOFF = 5.0
"""Seconds between two attempts while a permission or a resource definition is missing."""


class Emit:
    """Writes `storms` into a sink. The state is how far it has written, which the group's commits have too."""

    name = "emit"

    def __init__(
        self, settings: Settings, configuration: ReloadableConfig, sink: Sink, health: Health, member: GroupMember
    ) -> None:
        self._settings = settings
        self._configuration = configuration
        self._config = configuration.current.config
        """The configuration of the batch in progress."""
        self._sink = sink
        self._health = health
        self._member = member
        self._write_slots = asyncio.Semaphore(sink.concurrency)
        self._producer = Producer(settings, self.name)
        self._started = False
        self._written: dict[int, int] = {}
        """Next offset to write, by partition."""
        self._uncommitted: set[int] = set()
        """Partitions without a commit of the group."""
        self._blocked: set[int] = set()
        """Partitions whose next aggregate cannot be written. The stage is unhealthy while there are any."""
        metrics.DEAD_LETTERS.labels(settings.storms_dlq_topic)

    async def start_positions(self, _consumer: AIOKafkaConsumer, partitions: set[int]) -> dict[int, Position | None]:
        """Continues from the commits."""
        if not self._started:
            await self._sink.start()
            self._started = True
        committed = await read_committed(self._settings, self._member.group, self._member.topic)
        self._written = {}
        self._uncommitted = partitions - committed.keys()
        self._blocked = set()
        return {p: Position(committed[p][0]) if p in committed else None for p in partitions}

    async def process(self, batch: Batch) -> None:
        """Writes the aggregates of a poll, partitions concurrently and each in order; commits when all are done."""
        self._config = self._configuration.current.config
        if self._uncommitted and self._member.is_current(batch):
            # Before writing, which may take without limit: only a commit lets others compute the lag.
            positions = self._member.positions
            self._written = {p: at for p, at in positions.items() if p in self._uncommitted} | self._written
            if await self.commit():
                self._uncommitted = set()
        try:
            # An unexpected error cancels the other partitions: nothing is written outside of this call.
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._write_all(batch, *found)) for found in batch.records.items()]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        if not all(task.result() for task in tasks):
            return
        for partition, records in batch.records.items():
            self._written[partition] = records[-1].offset + 1
        if batch.records:
            await self.commit()

    async def commit(self) -> bool:
        """Commits what was written; returns whether the group took it."""
        assigned = self._member.assigned()
        return await self._member.commit({p: (offset, "") for p, offset in self._written.items() if p in assigned})

    async def stop(self) -> None:
        await self._producer.stop()
        if self._started:
            await self._sink.close()

    async def _write_all(self, batch: Batch, partition: int, records: Iterable[Record]) -> bool:
        """Writes the records of a partition in order; returns False if the batch is not current any more."""
        for record in records:
            if not await self._write(batch, partition, record):
                return False
        return True

    async def _write(self, batch: Batch, partition: int, record: Record) -> bool:
        """Writes one record, with as many attempts as it takes; returns False if the batch is not current any more."""
        backoff, attempts = MIN_BACKOFF, Attempts()
        place = f"{self._member.topic}-{partition}-{record.offset}"
        while self._member.is_current(batch):
            try:
                # A partition that waits for its next attempt takes no slot from the others.
                async with self._write_slots:
                    await self._write_once(place, record)
            except StormfoldError as error:
                self._blocked.add(partition)
                metrics.SINK_ERRORS.labels("action_required" if isinstance(error, ActionRequired) else "retry").inc()
                failed = {"error": str(error), "hint": error.hint, **attempts.fail()}
                if self._health.set_unhealthy(self.name, str(error), error.hint):
                    log.warning("cannot write", record=place, storm=_name(record), **failed)
                wanted = error.after if isinstance(error, Retry) else ACTION_BACKOFF
                await self._member.sleep_current(batch, wanted or backoff)
                backoff = min(backoff * 2, MAX_BACKOFF)
            else:
                self._blocked.discard(partition)
                if not self._blocked:
                    self._health.set_healthy(self.name)
                if recovery := attempts.succeed():
                    log.info("written after retries", record=place, storm=_name(record), **recovery)
                return True
        return False

    async def _write_once(self, place: str, record: Record) -> None:
        try:
            manifest = _manifest(record)
            if manifest["spec"]["class"] not in self._config.publish:
                return
            outcome = await self._sink.write(manifest, manifest["metadata"]["name"])
        except DeadLetter as reason:
            await send_to_dlq(self._producer, self._settings.storms_dlq_topic, record, place, str(reason))
            metrics.STORMS_WRITTEN.labels("dead_letter").inc()
            return
        metrics.STORMS_WRITTEN.labels(outcome.value).inc()
        self._observe_latency(outcome, manifest, record.timestamp)

    def _observe_latency(self, outcome: Outcome, manifest: Mapping[str, Any], published: int) -> None:
        now = time.time()
        metrics.SINK_LATENCY_SECONDS.observe(max(0.0, now - published / 1000))
        if outcome is not Outcome.CREATED:
            return
        # Records of other producers may lack fields.
        with suppress(Malformed):
            aggregate = from_manifest(manifest)
            windows = self._config.windows
            due = first_due(windows.bucket(aggregate.first_seen), aggregate.last_seen, windows) + windows.grace
            metrics.STORM_LATENCY_SECONDS.observe(max(0.0, now - due / 1000))


def _name(record: Record) -> str:
    return (record.key or b"").decode(errors="replace")


def _manifest(record: Record) -> dict[str, dict[str, str]]:
    """Decodes a record. Raises `DeadLetter` if it is not an aggregate."""
    try:
        manifest: dict[str, dict[str, str]] = decode_untrusted(msgspec.json.decode, record.value or b"")
        if manifest["metadata"]["name"].encode() != record.key:
            raise DeadLetter("the key is not the storm's name")
        manifest["spec"]["class"]
    except (Malformed, KeyError, TypeError, AttributeError) as error:
        raise DeadLetter(f"not a storm: {error}") from error
    return manifest
