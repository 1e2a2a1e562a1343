"""What the status page shows: asked for at every look, from connections that are there while somebody looks.

Kafka and Redis are asked each for itself: where one does not answer, what it said last stays, with the reason.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby, islice
from typing import Annotated, Any

import msgspec
import structlog
from aiokafka import ConsumerRecord

from stormfold import logs, metrics
from stormfold.config import Config
from stormfold.decoding import Malformed, decode_untrusted
from stormfold.errors import StormfoldError
from stormfold.eventtime import PartitionPair
from stormfold.group import pattern
from stormfold.kafka.client import open_admin
from stormfold.kafka.reader import TopicReader, open_reader
from stormfold.redis.open_groups import OpenGroup, OpenGroups, TopGroups
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.status.snapshot import (
    Extent,
    KafkaSnapshot,
    RedisSnapshot,
    closed_until,
    places,
    snapshot_kafka,
    snapshot_redis,
)
from stormfold.storm import AggregateClass
from stormfold.web.view import Group, Line, Memory, Partition, Source, Stage, Storm, View

log = structlog.get_logger(__name__)

FIRST_SECONDS, WAIT_SECONDS = 2.0, 0.5
"""Longest that a look waits for a server of which nothing is known yet, and for one that is known."""
ANSWER_SECONDS = 5.0
"""Longest to wait for an answer: a server that takes connections and says nothing is told from a slow one."""
CONNECTED_SECONDS = 60.0
"""How long connections to Kafka are kept: then also topics and partitions are asked for anew."""
STOP_SECONDS = 3.0
"""Longest that taking leave of the servers may take."""
GROUPS = 20
"""Largest open groups shown."""
STORMS = 20
"""Newest storms shown."""
READ_STORMS = 100
"""Records of each partition of `storms` that are read at once, from its end."""
LINES = 20
"""Newest warnings and errors shown."""

_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class _Spec(msgspec.Struct, rename="camel"):
    """What is shown of a storm; the rest of its manifest is passed over unread."""

    pattern: str
    severity: str
    alert_count: int
    distinct_alerts: int
    resource_count: int
    truncated: bool
    first_seen: _Moment
    last_seen: _Moment
    storm_class: AggregateClass = msgspec.field(name="class")


class _Metadata(msgspec.Struct):
    name: str


class _Manifest(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec


@dataclass(frozen=True, slots=True)
class _Published:
    at: int
    partition: int
    offset: int
    spec: _Spec


class Recent:
    """The newest storms in `storms`; only what is new in it is read again."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._ends: dict[int, int] = {}
        self._found: dict[str, _Published] = {}
        self._decode = msgspec.json.Decoder(_Manifest).decode

    async def read(self, tail: TopicReader, extents: Mapping[int, Extent]) -> None:
        """Takes in what has come since the last time. Raises what `tail` raises."""
        new = max((extent.end - self._ends.get(partition, 0) for partition, extent in extents.items()), default=0)
        if new > 0:
            async for record in tail.read(self._topic, min(new, READ_STORMS)):
                self._keep(record)
            newest = sorted(self._found.items(), key=lambda item: item[1].at, reverse=True)
            self._found = dict(newest[:STORMS])
        self._ends = {partition: extent.end for partition, extent in extents.items()}

    def _keep(self, record: ConsumerRecord) -> None:
        try:
            manifest = decode_untrusted(self._decode, record.value)
        except Malformed:
            # No closer wrote it.
            return
        if manifest.spec.storm_class == "Storm":
            found = _Published(record.timestamp, record.partition, record.offset, manifest.spec)
            self._found[manifest.metadata.name] = found

    def shown(self, written: Mapping[int, int] | None) -> tuple[Storm, ...]:
        """Those last seen latest first. `written`: up to which offset of each partition; None: none is to be."""
        # After an outage many are published at once, in no order.
        ordered = sorted(self._found.items(), key=lambda item: item[1].spec.last_seen, reverse=True)
        return tuple(
            Storm(
                name=name,
                pattern=at.spec.pattern,
                severity=at.spec.severity,
                alerts=at.spec.alert_count,
                distinct=at.spec.distinct_alerts,
                resources=at.spec.resource_count,
                exact=not at.spec.truncated,
                first=_ms(at.spec.first_seen),
                last=_ms(at.spec.last_seen),
                written=None if written is None else at.offset < written.get(at.partition, 0),
            )
            for name, at in ordered
        )


class _Server:
    """Kafka or Redis: one question at a time, as long as somebody wants an answer."""

    def __init__(self, address: str) -> None:
        self.source = Source(address)
        self._wanted = asyncio.Event()
        self._heard = asyncio.Event()

    async def ask(self) -> None:
        """Wants an answer, and waits for it a little."""
        known = self.source.at is not None or self.source.problem is not None
        self._heard.clear()
        self._wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS if known else FIRST_SECONDS):
                await self._heard.wait()

    async def wanted(self, limit: asyncio.Timeout | None = None) -> None:
        """Waits until an answer is wanted, and that `limit` begins then."""
        if limit is not None:
            limit.reschedule(None)
        await self._wanted.wait()
        self._wanted.clear()
        if limit is not None:
            limit.reschedule(asyncio.get_running_loop().time() + ANSWER_SECONDS)

    def answered(self) -> None:
        self.source = Source(self.source.address, at=_now())
        self._heard.set()

    def failed(self, problem: str, hint: str | None = None) -> bool:
        """Returns whether that is news."""
        news = self.source.problem != problem
        self.source = replace(self.source, problem=problem, hint=hint)
        self._heard.set()
        return news


class Live:
    """Knows what the servers said last."""

    def __init__(self, settings: Settings, config: Config, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._published = settings.sink != "none" and "Storm" in config.publish
        self._worker = f"{socket.gethostname()}: {', '.join(settings.stage_names)}"
        self._survey = OpenGroups(store, GROUPS)
        self._recent = Recent(settings.storms_topic)
        self._kafka, self._redis = _Server(settings.kafka_bootstrap_servers), _Server(settings.redis_url_safe)
        self._in_kafka: KafkaSnapshot | None = None
        self._in_redis: RedisSnapshot | None = None
        self._marks: dict[PartitionPair, int] = {}
        self._largest: TopGroups | None = None

    async def look(self) -> View:
        """Asks, and waits a little; what is not answered by then is there at a later look."""
        await self._kafka.ask()
        # Afterwards: what fold has done since Kafka told the end is no lag.
        await self._redis.ask()
        return self._view()

    async def answer(self) -> None:
        """Has questions answered until it is cancelled."""
        await asyncio.gather(self._again(self._kafka, self._ask_kafka), self._again(self._redis, self._ask_redis))

    async def _again(self, server: _Server, ask: Callable[[asyncio.Timeout], Awaitable[None]]) -> None:
        while True:
            await server.wanted()
            try:
                async with asyncio.timeout(ANSWER_SECONDS) as limit:
                    await ask(limit)
            except StormfoldError as error:
                server.failed(str(error), error.hint)
            except TimeoutError:
                server.failed(f"no answer within {ANSWER_SECONDS:.0f} s")
            except Exception as error:
                # A defect of ours; the rest of the page is none the worse for it.
                if server.failed(f"unexpected {type(error).__name__}: {error}"):
                    log.exception("status page cannot ask", server=server.source.address)

    async def _ask_kafka(self, limit: asyncio.Timeout) -> None:
        until = time.monotonic() + CONNECTED_SECONDS
        async with open_admin(self._settings) as admin, open_reader(self._settings) as tail:
            while True:
                found = await snapshot_kafka(self._settings, admin, tail)
                await self._recent.read(tail, found.topics.get("emit", {}))
                self._in_kafka = found
                self._kafka.answered()
                if time.monotonic() > until:
                    return
                await self._kafka.wanted(limit)

    async def _ask_redis(self, _: asyncio.Timeout) -> None:
        found = await snapshot_redis(self._store)
        if found.state is not None:
            self._marks = (await self._store.marks(found.state.epoch)).cells
            self._largest = await self._survey.look(found.state.epoch)
        self._in_redis = found
        self._redis.answered()

    def _view(self) -> View:
        kafka, redis, largest = self._in_kafka, self._in_redis, self._largest
        clock = None if redis is None else redis.clock
        state = None if redis is None else redis.state
        return View(
            at=_now(),
            worker=self._worker,
            kafka=self._kafka.source,
            redis=self._redis.source,
            epoch=None if state is None else state.epoch.number,
            horizon=None if clock is None else clock.horizon,
            closed_until=None if kafka is None else closed_until(kafka),
            open=None if largest is None else largest.open,
            seen=0 if largest is None else largest.seen,
            forming=() if largest is None else tuple(map(_group, largest.groups)),
            recent=self._recent.shown(self._written()),
            stages=() if kafka is None else tuple(self._stages(kafka)),
            memory=None if redis is None else _memory(redis),
            log=tuple(_line(event) for event in islice(reversed(logs.KEPT), LINES)),
        )

    def _written(self) -> dict[int, int] | None:
        if not self._published:
            return None
        committed = {} if self._in_kafka is None else self._in_kafka.committed.get("emit", {})
        return {partition: offset for partition, (offset, _) in committed.items()}

    def _stages(self, kafka: KafkaSnapshot) -> list[Stage]:
        reached = {
            "intake": {p: note.e for p, (_, note) in kafka.committed.get("intake", {}).items()},
            "fold": _least(self._marks),
        }
        return [
            Stage(
                stage,
                topic,
                [Partition(p.partition, p.behind, reached.get(stage, {}).get(p.partition)) for p in found],
            )
            for (stage, topic), found in groupby(
                places(self._settings, kafka, self._in_redis), key=lambda place: (place.stage, place.topic)
            )
        ]


@asynccontextmanager
async def open_live(settings: Settings, config: Config, store: Store) -> AsyncIterator[Live]:
    """Something to look with, while inside."""
    live = Live(settings, config, store)
    answering = asyncio.create_task(live.answer())
    try:
        yield live
    finally:
        answering.cancel()
        # Without Kafka, its clients can wait for ever.
        await asyncio.wait({answering}, timeout=STOP_SECONDS)


def _least(marks: Mapping[PartitionPair, int]) -> dict[int, int | None]:
    """Event time that all partitions of `alerts` have come to, by keyed partition."""
    result: dict[int, int | None] = {}
    for (partition, _), reached in marks.items():
        result[partition] = min(reached, result.get(partition) or reached)
    return result


def _group(group: OpenGroup) -> Group:
    return Group(
        pattern=pattern(group.meta.labels),
        route=group.meta.route,
        silenced=group.meta.silenced,
        severity=group.severity,
        alerts=group.alerts,
        distinct=group.distinct,
        resources=group.resources,
        exact=group.exact,
        first=group.first,
        last=group.last,
    )


def _memory(redis: RedisSnapshot) -> Memory:
    memory = redis.memory
    refused = metrics.REGISTRY.get_sample_value("stormfold_redis_oom_rejections_total") or 0
    return Memory(memory.used, memory.maximum, memory.fragmentation, memory.evicted, int(refused))


def _line(event: Mapping[str, Any]) -> Line:
    told = ("timestamp", "level", "logger", "event", "exception")
    details = [f"{name}={_detail(value)}" for name, value in event.items() if name not in told and value is not None]
    # Of a traceback only what went wrong.
    failure = str(event.get("exception", "")).strip().rpartition("\n")[2]
    return Line(
        at=_ms(datetime.fromisoformat(event["timestamp"])),
        level=str(event["level"]),
        logger=str(event["logger"]),
        message=str(event["event"]),
        details=", ".join(filter(None, [*details, failure])),
    )


def _detail(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({', '.join(f'{key}: {inner}' for key, inner in value.items())})"
    return str(value)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _now() -> int:
    return time.time_ns() // 1_000_000
