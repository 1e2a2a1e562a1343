"""The data of the status page, read from Kafka and Redis at each look, while somebody looks.

Kafka and Redis are asked separately. If one of them does not answer, its last answer stays, with the reason.
"""

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

import structlog

from stormfold import logs, metrics
from stormfold.config import ReloadableConfig
from stormfold.config.model import INCIDENT, Published
from stormfold.errors import StormfoldError
from stormfold.incident import Incident
from stormfold.kafka.client import open_admin
from stormfold.kafka.reader import open_reader
from stormfold.redis.memory import Memory
from stormfold.redis.open_groups import OpenGroups, TopGroups
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.sinks.kinds import INCIDENTS, STORMS, ResourceKind
from stormfold.status.open_incidents import OpenIncident, open_incidents
from stormfold.status.recent import recent_incidents, recent_storms
from stormfold.status.snapshot import (
    KafkaSnapshot,
    RedisSnapshot,
    closed_until,
    snapshot_kafka,
    snapshot_redis,
    stage_positions,
)
from stormfold.storm import Aggregate

log = structlog.get_logger(__name__)

WAIT_SECONDS = 2.0
"""Longest wait of a look for the answer of a server."""
ANSWER_SECONDS = 10.0
"""After this a server that does not answer is reported, unless its client has found the reason before."""
CONNECTED_SECONDS = 60.0
"""Age at which connections to Kafka are opened again, so that new partitions are seen."""
STOP_SECONDS = 3.0
"""Longest wait until connections are closed: clients of a Kafka that is away can wait forever."""
SHOWN = 20
"""Largest open groups, and newest warnings and errors to show."""


@dataclass(frozen=True, slots=True)
class Source:
    """How a server answers."""

    address: str
    at: int | None = None
    """Time of its last answer (ms); None before the first."""
    problem: str | None = None
    """Why it does not answer now; everything shown of it is as of `at`."""
    hint: str | None = None


class Progress(NamedTuple):
    """How far a stage is in a partition."""

    lag: int
    """Records that can be read and are not processed yet."""
    reached: int | None
    """Event time reached (ms); None if it is unknown."""
    unstable: int = 0
    """Records that cannot be read until an open transaction ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that the status page shows, at one moment. Times are milliseconds since the Unix epoch."""

    at: int
    worker: str
    """Host of this worker and its stages."""
    kafka: Source
    redis: Source
    version: int | None = None
    """Number of the state version."""
    horizon: int | None = None
    closed_until: int | None = None
    groups: TopGroups | None = None
    recent: Sequence[tuple[Aggregate, bool | None]] = ()
    """Storms, the latest first, and whether the sink has written them; None if none is to be written."""
    incidents: Sequence[tuple[Incident, bool | None]] = ()
    """The same of incidents."""
    open_incidents: Sequence[OpenIncident] = ()
    """Incidents that are announced and not final, the latest first."""
    stages: Mapping[str, Mapping[int, Progress]] = field(default_factory=dict)
    """Stage → partition → progress."""
    memory: Memory | None = None
    oom_rejections: int = 0
    """Fold calls of this worker that Redis rejected because its memory is full."""
    events: Sequence[Mapping[str, Any]] = ()
    """Warnings and errors of this worker, the newest first."""

    @property
    def lag(self) -> int:
        """Records not processed yet, of all stages."""
        return sum(progress.lag for partitions in self.stages.values() for progress in partitions.values())


class _Server:
    """Kafka or Redis. `answers` reads once each time it is advanced, and keeps its connections in between."""

    def __init__(self, address: str, answers: Callable[[], AsyncGenerator[None, None]]) -> None:
        self.source = Source(address)
        self._restart = answers
        self._answers = answers()
        self._task: asyncio.Task[None] | None = None

    async def ask(self) -> None:
        """Reads, and waits a little for the answer. A slower answer is used by a later call."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._answer())
        await asyncio.wait({self._task}, timeout=WAIT_SECONDS)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=STOP_SECONDS)
        with suppress(TimeoutError, RuntimeError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._answers.aclose()

    async def _answer(self) -> None:
        hint = None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await anext(self._answers)
            self.source = Source(self.source.address, at=_now())
            return
        except StormfoldError as error:
            problem, hint = str(error), error.hint
        except TimeoutError:
            problem = f"no answer within {ANSWER_SECONDS:.0f} s"
        except Exception as error:
            # A defect of stormfold; the rest of the page still works.
            problem = f"unexpected {type(error).__name__}: {error}"
            if problem != self.source.problem:
                log.exception("status page failed to read", server=self.source.address)
        self._answers = self._restart()
        self.source = replace(self.source, problem=problem, hint=hint)


class Live:
    """Reads Kafka and Redis at each look, and keeps their last answers."""

    def __init__(self, settings: Settings, configuration: ReloadableConfig, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._configuration = configuration
        self._open_groups = OpenGroups(store, SHOWN)
        self._recent = recent_storms(settings.storms_topic)
        self._incidents = recent_incidents(settings.incidents_topic)
        self.servers = (
            _Server(settings.kafka_bootstrap_servers, self._read_kafka),
            _Server(settings.redis_url_safe, self._read_redis),
        )
        self._kafka: KafkaSnapshot | None = None
        self._redis: RedisSnapshot | None = None
        self._reached: dict[int, int] = {}
        """Event time that fold has reached, by keyed partition."""
        self._groups: TopGroups | None = None
        self._open_incidents: Sequence[OpenIncident] = ()

    async def look(self) -> View:
        """Reads both servers and waits a little for their answers. Raises nothing."""
        # Redis after Kafka: otherwise records that fold processed in between would appear as lag.
        for server in self.servers:
            await server.ask()
        return self._view()

    async def _read_kafka(self) -> AsyncGenerator[None, None]:
        while True:
            until = time.monotonic() + CONNECTED_SECONDS
            async with open_admin(self._settings) as admin, open_reader(self._settings) as reader:
                while time.monotonic() < until:
                    found = await snapshot_kafka(self._settings, admin, reader)
                    await self._recent.read(reader, found.topics.get(STORMS.component, {}))
                    await self._incidents.read(reader, found.topics.get(INCIDENTS.component, {}))
                    self._kafka = found
                    yield

    async def _read_redis(self) -> AsyncGenerator[None, None]:
        while True:
            found = await snapshot_redis(self._store)
            if found.state is not None:
                reached: dict[int, int] = {}
                for (keyed, _), time_reached in (await self._store.marks(found.state.version)).marks.items():
                    reached[keyed] = min(time_reached, reached.get(keyed, time_reached))
                self._reached = reached
                self._groups = await self._open_groups.look(found.state.version)
            self._open_incidents = (await open_incidents(self._store))[:SHOWN]
            self._redis = found
            yield

    def _view(self) -> View:
        kafka, redis = self._kafka, self._redis
        version = redis.state.version if redis and redis.state else None
        return View(
            at=_now(),
            worker=f"{socket.gethostname()}: {', '.join(self._settings.stage_names)}",
            kafka=self.servers[0].source,
            redis=self.servers[1].source,
            version=version.number if version else None,
            horizon=redis.clock.horizon if redis and redis.clock else None,
            closed_until=closed_until(kafka) if kafka else None,
            groups=self._groups,
            recent=self._recent.resources(self._written(STORMS, "Storm")),
            open_incidents=self._open_incidents,
            incidents=self._incidents.resources(self._written(INCIDENTS, INCIDENT)),
            stages=self._stages(kafka) if kafka else {},
            memory=redis.memory if redis else None,
            oom_rejections=int(metrics.REGISTRY.get_sample_value("stormfold_redis_oom_rejections_total") or 0),
            events=list(islice(reversed(logs.RECENT_EVENTS), SHOWN)),
        )

    def _written(self, kind: ResourceKind, published: Published) -> dict[int, int] | None:
        """Next offset that emit writes, by partition; None if these do not become resources."""
        if self._settings.sink == "none" or published not in self._configuration.current.config.publish:
            return None
        committed = self._kafka.committed.get(kind.component, {}) if self._kafka else {}
        return {partition: offset for partition, (offset, _) in committed.items()}

    def _stages(self, kafka: KafkaSnapshot) -> dict[str, dict[int, Progress]]:
        intake = {partition: note.event_time for partition, (_, note) in kafka.committed.get("intake", {}).items()}
        reached: dict[str, Mapping[int, int | None]] = {"intake": intake, "fold": self._reached}
        stages: dict[str, dict[int, Progress]] = {}
        for position in stage_positions(self._settings, kafka, self._redis):
            at = reached.get(position.stage, {}).get(position.partition)
            stages.setdefault(position.stage, {})[position.partition] = Progress(position.lag, at, position.unstable)
        return stages


@asynccontextmanager
async def open_live(settings: Settings, configuration: ReloadableConfig, store: Store) -> AsyncIterator[Live]:
    """Yields the source of the page's data and closes its connections at the end."""
    live = Live(settings, configuration, store)
    try:
        yield live
    finally:
        await asyncio.gather(*(server.stop() for server in live.servers))


def _now() -> int:
    return time.time_ns() // 1_000_000
