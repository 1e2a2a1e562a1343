"""Emit: storms into the sink, each under its own name, in order; what the sink rejects for good is parked."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer

from stormfold import metrics
from stormfold.config import Config
from stormfold.decoding import Malformed, decode_untrusted
from stormfold.errors import ActionRequired, DeadLetter, Retry, StormfoldError
from stormfold.health import Health
from stormfold.kafka._patches import Record
from stormfold.kafka.batch import Batch, StartPosition
from stormfold.kafka.committed import read_committed
from stormfold.kafka.dlq import send_to_dlq
from stormfold.kafka.member import GroupMember
from stormfold.kafka.producer import Producer
from stormfold.manifest import from_manifest
from stormfold.settings import Settings
from stormfold.sinks import Outcome, Sink
from stormfold.window import first_due

log = structlog.get_logger(__name__)

BACKOFF_FIRST, BACKOFF_MOST = 0.5, 15.0
"""Seconds between two tries of the same storm: doubled each time."""
BACKOFF_STOP = 5.0
"""Seconds between two tries while a permission or a definition is missing."""


class Emit:
    """The stage's state: how far it has written, which its consumer group's offsets say as well."""

    name = "emit"

    def __init__(self, settings: Settings, config: Config, sink: Sink, health: Health, member: GroupMember) -> None:
        self._settings = settings
        self._member = member
        self._config = config
        self._sink = sink
        self._room = asyncio.Semaphore(sink.concurrency)
        self._health = health
        self._producer = Producer(settings, self.name)
        self._started = False
        self._done: dict[int, int] = {}
        self._uncommitted: set[int] = set()
        """Partitions of which the group has never committed anything."""
        self._waiting: set[int] = set()
        """Partitions whose next storm can't be written: what goes well elsewhere does not make the stage ready."""
        metrics.DEAD_LETTERS.labels(settings.storms_dlq_topic)

    async def start_positions(self, _consumer: AIOKafkaConsumer, partitions: set[int]) -> dict[int, StartPosition]:
        """Continues from the commits."""
        if not self._started:
            await self._sink.start()
            self._started = True
        committed = await read_committed(self._settings, self._member.group, self._member.topic)
        self._done = {}
        self._uncommitted = partitions - committed.keys()
        return {p: StartPosition(committed[p][0] if p in committed else None) for p in partitions}

    async def process(self, batch: Batch) -> None:
        """Writes a poll's storms, partitions side by side and each in order; commits when all are written or parked."""
        if self._uncommitted and self._member.is_current(batch):
            # Before writing, which may take for ever: without a commit nobody else can tell what waits.
            self._done = {p: at for p, at in self._member.positions.items() if p in self._uncommitted} | self._done
            if await self.commit():
                self._uncommitted = set()
        if not all(await asyncio.gather(*(self._write_all(batch, *found) for found in batch.records.items()))):
            return
        for partition, records in batch.records.items():
            self._done[partition] = records[-1].offset + 1
        if batch.records:
            await self.commit()

    async def _write_all(self, batch: Batch, partition: int, records: Iterable[Record]) -> bool:
        """Writes storms one after the other; False if the batch is no longer current."""
        for record in records:
            if not await self._write(batch, partition, record):
                return False
        return True

    async def commit(self) -> bool:
        """Commits what was written; returns whether the group took it."""
        assigned = self._member.assigned()
        return await self._member.commit({p: (offset, "") for p, offset in self._done.items() if p in assigned})

    async def stop(self) -> None:
        """Ends the connections."""
        await self._producer.stop()
        if self._started:
            await self._sink.close()

    async def _write(self, batch: Batch, partition: int, record: Record) -> bool:
        """Writes one storm, however long it takes; False if the batch is no longer current."""
        wait = BACKOFF_FIRST
        while self._member.is_current(batch):
            try:
                # A partition that waits to try again takes no room from those that get on.
                async with self._room:
                    await self._try(partition, record)
            except StormfoldError as error:
                self._waiting.add(partition)
                if self._health.set_unhealthy(self.name, str(error), error.hint):
                    log.warning("cannot write", error=str(error), hint=error.hint)
                metrics.SINK_ERRORS.labels("action_required" if isinstance(error, ActionRequired) else "retry").inc()
                asked = error.after if isinstance(error, Retry) else BACKOFF_STOP
                await self._member.sleep_current(batch, asked or wait)
                wait = min(wait * 2, BACKOFF_MOST)
            else:
                self._waiting.discard(partition)
                if not self._waiting:
                    self._health.set_healthy(self.name)
                return True
        self._waiting.discard(partition)
        return False

    async def _try(self, partition: int, record: Record) -> None:
        try:
            manifest = self._manifest(record)
            if manifest["spec"]["class"] not in self._config.publish:
                return
            outcome = await self._sink.write(manifest, manifest["metadata"]["name"])
        except DeadLetter as reason:
            origin = f"{self._member.topic}-{partition}-{record.offset}"
            await send_to_dlq(self._producer, self._settings.storms_dlq_topic, record, origin, str(reason))
            metrics.STORMS_WRITTEN.labels("parked").inc()
            return
        metrics.STORMS_WRITTEN.labels(outcome.value).inc()
        self._tell_delay(outcome, manifest, record.timestamp)

    def _tell_delay(self, outcome: Outcome, manifest: Mapping[str, Any], published: int) -> None:
        now = time.time()
        metrics.SINK_LATENCY_SECONDS.observe(max(0.0, now - published / 1000))
        if outcome is not Outcome.CREATED:
            return
        # What somebody else wrote into the topic may lack something.
        with suppress(Malformed):
            storm = from_manifest(manifest)
            windows = self._config.windows
            over = first_due(windows.bucket(storm.first_seen), storm.last_seen, windows) + windows.grace
            metrics.STORM_LATENCY_SECONDS.observe(max(0.0, now - over / 1000))

    def _manifest(self, record: Record) -> dict[str, dict[str, str]]:
        try:
            manifest: dict[str, dict[str, str]] = decode_untrusted(msgspec.json.decode, record.value or b"")
            if manifest["metadata"]["name"].encode() != record.key:
                raise DeadLetter("the key is not the storm's name")
            manifest["spec"]["class"]
        except (Malformed, KeyError, TypeError, AttributeError) as error:
            raise DeadLetter(f"not a storm: {error}") from error
        return manifest
