"""Correlate: joins storms to incidents and publishes those that are final. One worker at a time does it, by a lease.

The worker keeps nothing but what it read: after a change of the lease, or an error of Kafka, it reads it again.
"""

import asyncio
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, suppress
from itertools import islice, zip_longest

import structlog
from aiokafka.errors import KafkaError

from stormfold import metrics
from stormfold.chain import FormingIncident
from stormfold.config import ReloadableConfig
from stormfold.errors import Retry, StormfoldError
from stormfold.health import Health
from stormfold.incident import Incident
from stormfold.incident_manifest import encode_manifest
from stormfold.kafka.client import diagnose
from stormfold.kafka.producer import Producer, ProducerRecord
from stormfold.redis.lease import LeaseReply
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.stages.announce import Announcer
from stormfold.stages.correlate_input import CorrelateInput, MorePartitions, open_input
from stormfold.stages.periodic import PeriodicService

log = structlog.get_logger(__name__)

INTERVAL = 1.0
"""Seconds between two rounds, and between two requests for the lease."""
STOP_SECONDS = 2.0
"""Longest wait for the end of a round when the worker stops."""
MAX_INCIDENTS_PER_CHUNK = 100
"""Incidents that are published together, each of another scope, after one look at the lease."""


class Correlate(PeriodicService):
    """Publishes incidents while it has the lease. Two that do so at once publish the same."""

    name = "correlate"

    def __init__(self, settings: Settings, configuration: ReloadableConfig, store: Store, health: Health) -> None:
        super().__init__(health)
        self.announcer = Announcer(settings, configuration, store, health)
        self._settings = settings
        self._store = store
        self._producer = Producer(settings, self.name)
        self._token = secrets.token_hex(8)
        self._lease = round(settings.close_lease * 1000)
        self._held_at = float("-inf")
        """When this worker last had the lease (monotonic, s)."""
        self._opened = AsyncExitStack()
        self._input: CorrelateInput | None = None
        """Everything that was read since this worker has the lease."""
        self._working = asyncio.Lock()

    async def on_stop(self) -> None:
        # A round in progress is finished first, if it is short.
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._working.acquire()
        if self._input is not None:
            await self._close()
            # The lease ends at once, so that another worker need not wait for it.
            with suppress(StormfoldError):
                await self._store.hold_correlation(self._token, 1)
        await self._producer.stop()
        await self.announcer.stop()

    async def run_once(self) -> float:
        """One round, if this worker has the lease. Whatever fires is posted while Redis or Kafka does not answer."""
        async with self._working:
            try:
                await self._run_once()
            except StormfoldError:
                self.announcer.repeat()
                raise
        return INTERVAL

    async def _run_once(self) -> None:
        reply = await self._hold()
        if reply is not LeaseReply.EXTENDED and self._input is not None:
            log.info("no longer correlating: the lease was lost")
            await self._close()
        if reply is LeaseReply.OTHERS:
            self.announcer.end()
        elif not self.should_stop:
            await self._work()

    async def _work(self) -> None:
        try:
            if self._input is None:
                self._input = await self._opened.enter_async_context(open_input(self._settings, self._keep))
                await self.announcer.begin(self._input.pipeline)
                log.info("correlating: this worker has the lease", positions=self._input.positions)
            await self._round(self._input)
        except MorePartitions:
            log.info("storms has got partitions: reading it again")
            await self._close()
        except (KafkaError, OSError) as error:
            await self._close()
            raise await diagnose(error, self._settings) from error
        except BaseException:
            # What is pending depends on everything that was read; after an error that is not known.
            await self._close()
            raise

    async def _hold(self) -> LeaseReply:
        """Takes or extends the lease."""
        reply = await self._store.hold_correlation(self._token, self._lease)
        if reply is not LeaseReply.OTHERS:
            self._held_at = time.monotonic()
        return reply

    async def _keep(self, now: bool = False) -> None:
        """Extends the lease, `now` or if it is due; long work calls it repeatedly. Raises `Retry` if it was lost."""
        self.health.heartbeat(self.name)
        due = now or time.monotonic() - self._held_at > self._lease / 3000
        if due and await self._hold() is not LeaseReply.EXTENDED:
            raise Retry("the lease of correlation was lost: another worker publishes incidents, or this one, later")

    async def _close(self) -> None:
        opened, self._opened, self._input = self._opened, AsyncExitStack(), None
        for gauge in (metrics.CLOSED_BEFORE_AGE_SECONDS, metrics.PENDING_AGGREGATES):
            gauge.clear()
        self.health.read_by_lease.pop(self.name, None)
        await opened.aclose()

    async def _round(self, found: CorrelateInput) -> None:
        """Reads what was published, publishes incidents that are final, and commits."""
        # Before the ends of `storms` are read: a group that is closed since is found there.
        look = await self.announcer.look()
        closed_before = await found.read()
        if closed_before is not None:
            metrics.CLOSED_BEFORE_AGE_SECONDS.set(closed_before)
            await self._publish(found, closed_before)
            found.correlation.forget(closed_before)
        await self.announcer.update(look, closed_before, found.correlation)
        metrics.PENDING_AGGREGATES.set(found.correlation.pending)
        self.health.read_by_lease[self.name] = found.lag, found.positions
        await found.commit()

    async def _publish(self, found: CorrelateInput, closed_before: int) -> None:
        """Publishes what is final. Of each scope, one after the other is acknowledged: a later one ends an earlier."""
        for chunk in chunks(found.correlation.final(closed_before)):
            await self._keep(now=True)
            incidents = [forming.build() for forming in chunk]
            await self._producer.send_by_key(self._settings.incidents_topic, map(_record, incidents))
            for forming, incident in zip(chunk, incidents, strict=True):
                found.correlation.know(incident, [storm.name for storm in forming.storms if storm.name])
                log.info(
                    "incident published", incident=incident.name, storms=incident.storm_count,
                    alerts=incident.alert_count, reason=incident.close_reason,
                )  # fmt: skip
            metrics.INCIDENTS_PUBLISHED.inc(len(incidents))


def chunks(final: Iterable[FormingIncident]) -> Iterator[list[FormingIncident]]:
    """The incidents in order of time of each scope, no two of a scope in one list."""
    scopes: dict[object, list[FormingIncident]] = {}
    for forming in final:
        scopes.setdefault(forming.scope.key, []).append(forming)
    for wave in zip_longest(*scopes.values()):
        left = iter([forming for forming in wave if forming is not None])
        while chunk := list(islice(left, MAX_INCIDENTS_PER_CHUNK)):
            yield chunk


def _record(incident: Incident) -> ProducerRecord:
    return ProducerRecord(incident.name.encode(), encode_manifest(incident))
