"""The Faust app that joins the stages: ingest services feed channels, agents take whole polls from them."""

import asyncio
import signal
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import faust
import structlog
from aiokafka import AIOKafkaConsumer
from faust.app.base import BootStrategy
from redis.asyncio import Redis

from stormfold.config import Config
from stormfold.health import Health
from stormfold.kafka.consumer import Batch, BatchConsumer, Start
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.sinks import open_sink
from stormfold.stages.close import Close
from stormfold.stages.emit import Emit
from stormfold.stages.fold import Fold
from stormfold.stages.intake import Intake
from stormfold.stages.kafka_probe import KafkaProbe
from stormfold.stages.redis_monitor import RedisMonitor
from stormfold.stages.retention import Retention
from stormfold.status.live import open_live
from stormfold.web.server import Web

log = structlog.get_logger(__name__)


class Stage(Protocol):
    """A stage fed by a topic."""

    name: str
    ingest: BatchConsumer

    async def place(self, consumer: AIOKafkaConsumer, partitions: set[int], /) -> Mapping[int, Start]:
        """Where the assigned partitions begin; see `Placer`."""

    async def process(self, batch: Batch) -> None:
        """Acts on one poll; returns only when it is done or no longer current. Raises nothing."""

    async def leave(self) -> None:
        """Commits what is done."""

    async def stop(self) -> None:
        """Ends the stage's own connections."""


class _Boot(BootStrategy):
    """Faust's own consumer and producer stay off: batches come from the ingest services."""

    enable_kafka = False
    enable_kafka_consumer = False
    enable_kafka_producer = False
    enable_web = False


class _App(faust.App):
    BootStrategy = _Boot

    def _create_directories(self) -> None:
        """Tables would need folders; there are none, and the working directory may be read-only."""


class Worker:
    """One worker with some or all stages."""

    def __init__(self, settings: Settings, config: Config) -> None:
        self.settings = settings
        self.config = config
        self.health = Health(lambda: [stage.ingest for stage in self.stages])
        self.redis: Redis = connect(settings)
        self.store = Store(self.redis, settings.redis_prefix)
        self.watch = RedisMonitor(config, self.store, self.health)
        self.web = Web(
            settings.http_bind, self.health, lambda: open_live(settings, config, self.store),
            settings.sink if "emit" in settings.stage_names else None,
        )  # fmt: skip
        self.close: Close | None = None
        self.stages: list[Stage] = []
        self.app = _App(
            settings.group_prefix, broker="kafka://", web_enabled=False, topic_disable_leader=True,
            topic_allow_declare=False, stream_wait_empty=False,
        )  # fmt: skip
        self.app.finalize()
        self._build(settings.stage_names)

    def _build(self, names: Sequence[str]) -> None:
        settings, config, store, health = self.settings, self.config, self.store, self.health
        self.app.service(self.watch)
        self.app.service(KafkaProbe(settings, health, lambda: [stage.ingest for stage in self.stages]))
        if "intake" in names:
            self._feed(Intake(settings, config, store, health), settings.alerts_topic)
        if "fold" in names:
            self._feed(Fold(settings, config, store, self.watch, health), settings.keyed_topic)
        if "close" in names:
            self.close = Close(settings, config, store, health)
            self.app.service(self.close)
        if "emit" in names:
            sink = open_sink(settings.sink, settings, {route.namespace for route in config.routes})
            self._feed(Emit(settings, config, sink, health), settings.storms_topic)
            self.app.service(Retention(config, sink, health))

    def _feed(self, stage: Stage, topic: str) -> None:
        channel = self.app.channel(maxsize=1)
        stage.ingest = BatchConsumer(
            name=stage.name, topic=topic, place=stage.place, leave=stage.leave,
            put=lambda batch: channel.put(batch), settings=self.settings, health=self.health,
        )  # fmt: skip

        async def agent(batches: Any) -> None:
            async for batch in batches:
                async with stage.ingest.busy:
                    try:
                        await stage.process(batch)
                        stage.ingest.finish(batch)
                    except Exception as error:
                        # A defect of ours. An agent that raises would be gone; going back loses nothing.
                        log.exception("stage failed", stage=stage.name)
                        self.health.set_unhealthy(stage.name, f"unexpected {type(error).__name__}: {error}")
                        await stage.ingest.sleep_current(batch, 1.0)
                        stage.ingest.rewind()

        self.app.agent(channel, name=stage.name, concurrency=1)(agent)
        self.app.service(stage.ingest)
        self.stages.append(stage)

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT, then stops within seconds: batches in hand are finished and committed."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self.start()
        try:
            await stop.wait()
        finally:
            await self.stop()

    async def start(self) -> None:
        """Starts every stage without waiting for any server. Raises `ActionRequired` if the HTTP address is in use."""
        await self.web.start()
        await self.app.start()
        self.app.flow_control.resume()
        log.info("worker started", stages=self.settings.stages)

    async def stop(self) -> None:
        """Stops the ingest first, so that agents end with nothing in hand. One that fails keeps none from stopping."""
        for stopping in (
            [self.web.end_page(), *(stage.ingest.stop() for stage in self.stages)],
            [self.app.stop()],
            [stage.stop() for stage in self.stages],
            [self.redis.aclose(), self.web.stop()],
        ):
            for result in await asyncio.gather(*stopping, return_exceptions=True):
                if isinstance(result, BaseException):
                    log.error("did not stop cleanly", exc_info=result)
        log.info("worker stopped")
