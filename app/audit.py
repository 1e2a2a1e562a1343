"""The books: every alert in `alerts` is in exactly one storm, in a dead letter, or still open."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from app.alert import Poison
from app.config import Config
from app.errors import Retry
from app.kafka.client import broker_error, client_options
from app.kafka.committed import read_committed
from app.kafka.topics import partitions_of
from app.series import SeriesReader
from app.settings import Settings
from app.store.redis import Store
from app.storm import storm_name
from app.window import segments

LOOK_EVERY = 0.25
"""Seconds between two looks at whether everything has been read."""


@dataclass(frozen=True, slots=True)
class Books:
    """Alerts in, and where they are; all over what retention still holds."""

    alerts: int
    """Alerts in `alerts`; a record that nobody understands counts as one."""
    storms: int
    """Σ alertCount over `storms`, newest record per name."""
    dead: int
    """Distinct records of `alerts` in `alerts-dead`."""
    open: int
    """Alerts in groups that are not closed yet."""
    names: int
    """Distinct storms."""
    unread: int
    """Records that the worker had not taken up when the wait was over: the books can't balance before."""
    trimmed: int
    """Records that retention has taken from `alerts`: the storms of those are counted, the alerts no longer are."""

    @property
    def difference(self) -> int:
        """Alerts missing from the other side; negative: counted too often."""
        return self.alerts - self.storms - self.dead - self.open

    @property
    def balanced(self) -> bool:
        """Nothing lost, nothing counted twice."""
        return self.difference == 0 and self.unread == 0


async def audit(settings: Settings, config: Config, store: Store, wait: float = 30.0) -> Books:
    """Counts both sides, after waiting up to `wait` seconds until all that was published has been folded.

    Raises `Retry` or `Stop` if Kafka or Redis can't be asked.
    """
    until = time.monotonic() + wait
    consumer = AIOKafkaConsumer(
        **client_options(settings),
        enable_auto_commit=False,
        isolation_level="read_committed",
        max_partition_fetch_bytes=8 * 1024 * 1024,
    )
    try:
        await consumer.start()
        audit = _Audit(settings, config, store, consumer)
        while True:
            unread = await audit.wait_folded(until)
            ends = await audit.ends(settings.alerts_topic)
            books = await audit.count(unread)
            # Somebody may have published meanwhile: then count again.
            if books.balanced or time.monotonic() >= until:
                return books
            if ends == await audit.ends(settings.alerts_topic) and unread == 0 and not await audit.moving():
                return books
    except (KafkaError, OSError) as error:
        raise broker_error(error, settings) from error
    finally:
        await consumer.stop()


class _Audit:
    def __init__(self, settings: Settings, config: Config, store: Store, consumer: AIOKafkaConsumer) -> None:
        self._settings = settings
        self._reader = SeriesReader(config)
        self._store = store
        self._consumer = consumer
        self._known: dict[str, list[TopicPartition]] = {}

    async def ends(self, topic: str) -> Mapping[TopicPartition, int]:
        ends: Mapping[TopicPartition, int] = await self._consumer.end_offsets(await self._partitions(topic))
        return ends

    async def moving(self) -> bool:
        """Whether closers moved something between two looks: then the count before may be torn."""
        before = await self.ends(self._settings.storms_topic)
        await asyncio.sleep(LOOK_EVERY)
        return before != await self.ends(self._settings.storms_topic)

    async def wait_folded(self, until: float) -> int:
        """Waits until what is in `alerts` now is folded; returns the records that were not."""
        settings = self._settings
        alerts = await self.ends(settings.alerts_topic)
        group = settings.consumer_group("intake")
        while unread := _behind(
            {p: offset for p, (offset, _) in (await read_committed(settings, group, settings.alerts_topic)).items()},
            alerts,
        ):
            if time.monotonic() >= until:
                return unread
            await asyncio.sleep(LOOK_EVERY)
        keyed = await self.ends(settings.keyed_topic)
        while unread := _behind(await self._folded(), keyed):
            if time.monotonic() >= until:
                return unread
            await asyncio.sleep(LOOK_EVERY)
        return 0

    async def count(self, unread: int) -> Books:
        settings = self._settings
        open_now = await self._open()
        alerts = trimmed = 0
        begins = await self._consumer.beginning_offsets(await self._partitions(settings.alerts_topic))
        trimmed = sum(begins.values())
        async for record in self._read(settings.alerts_topic):
            try:
                alerts += len(self._reader.understand(record.value, record.headers, record.timestamp))
            except Poison:
                alerts += 1
        dead = set()
        async for record in self._read(settings.dead_topic):
            origin = dict(record.headers).get("stormfold-origin", b"").decode(errors="replace")
            topic, _, place = origin.rpartition("-")[0].rpartition("-")
            tp = TopicPartition(topic, int(place)) if place.isdigit() else None
            if tp in begins and int(origin.rpartition("-")[2]) >= begins[tp]:
                dead.add(origin)
        storms: dict[bytes, int] = {}
        async for record in self._read(settings.storms_topic):
            storms[record.key] = _alert_count(record)
        return Books(
            alerts=alerts,
            storms=sum(storms.values()),
            dead=len(dead),
            # What was closed while we counted stands in both: by name it is one.
            open=sum(count for name, count in open_now.items() if name not in storms),
            names=len(storms),
            unread=unread,
            trimmed=trimmed,
        )

    async def _folded(self) -> dict[int, int]:
        state = await self._store.load()
        return {} if state is None else {p: at.offset for p, at in state.positions.items()}

    async def _open(self) -> dict[bytes, int]:
        epoch = await self._store.epoch()
        if epoch is None:
            return {}
        result = {}
        for group in await self._store.open_buckets(epoch):
            for part in segments(group.buckets, epoch.windows, epoch.rebuild):
                if epoch.rebuild is None or part.start >= epoch.rebuild.closed:
                    name = storm_name(group.meta, part.start).encode()
                    result[name] = sum(bucket.alerts for bucket in part.buckets)
        return result

    async def _partitions(self, topic: str) -> list[TopicPartition]:
        if topic not in self._known:
            found = await partitions_of(self._settings, topic)
            self._known[topic] = [TopicPartition(topic, partition) for partition in found]
        return self._known[topic]

    async def _read(self, topic: str) -> AsyncIterator[ConsumerRecord]:
        """Every record that is there now."""
        ends = await self.ends(topic)
        self._consumer.assign(list(ends))
        begins = await self._consumer.beginning_offsets(list(ends))
        for tp in ends:
            self._consumer.seek(tp, begins[tp])
        while left := [tp for tp, end in ends.items() if await self._consumer.position(tp) < end]:
            for records in (await self._consumer.getmany(*left, timeout_ms=1000, max_records=5000)).values():
                for record in records:
                    yield record


def _behind(reached: Mapping[int, int], ends: Mapping[TopicPartition, int]) -> int:
    return sum(max(0, end - reached.get(tp.partition, 0)) for tp, end in ends.items())


def _alert_count(record: ConsumerRecord) -> int:
    try:
        return int(msgspec.json.decode(record.value)["spec"]["alertCount"])
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise Retry(f"{record.topic}-{record.partition}-{record.offset} is not a storm") from error
