"""The worker: a Faust app whose batch consumers feed channels, and whose agents process whole polls from them."""

import asyncio
import signal
from typing import Any

import faust
import structlog
from faust.app.base import BootStrategy
from redis.asyncio import Redis

from stormfold.config import Config, ReloadableConfig
from stormfold.health import Health
from stormfold.kafka.consumer import BatchConsumer, Stage
from stormfold.kafka.group_member import GroupMember
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.sinks import open_sink
from stormfold.sinks.kinds import KINDS
from stormfold.stages.close import Close
from stormfold.stages.config_watcher import ConfigWatcher
from stormfold.stages.correlate import Correlate
from stormfold.stages.emit import Emit
from stormfold.stages.emitted import Emitted
from stormfold.stages.fold import Fold
from stormfold.stages.intake import Intake
from stormfold.stages.kafka_probe import KafkaProbe
from stormfold.stages.redis_monitor import RedisMonitor
from stormfold.stages.retention import Retention
from stormfold.status.live import open_live
from stormfold.web.server import Web

log = structlog.get_logger(__name__)


class _Boot(BootStrategy):
    """Faust's own consumer and producer stay off: batches come from the batch consumers."""

    enable_kafka = False
    enable_kafka_consumer = False
    enable_kafka_producer = False
    enable_web = False


class _App(faust.App):
    BootStrategy = _Boot

    def _create_directories(self) -> None:
        """Directories would be for tables. There are none, and the working directory may be read-only."""


class Worker:
    """One worker with some or all stages."""

    def __init__(self, settings: Settings, config: Config) -> None:
        self.settings = settings
        self.configuration = ReloadableConfig(config, settings.config)
        self.health = Health(self.members)
        self.redis: Redis = connect(settings)
        self.store = Store(self.redis, settings.redis_prefix)
        self.redis_monitor = RedisMonitor(self.configuration, self.store, self.health)
        self.close: Close | None = None
        self.correlate: Correlate | None = None
        self.stages: list[Stage] = []
        self.consumers: list[BatchConsumer] = []
        self.app = _App(
            settings.group_prefix, broker="kafka://", web_enabled=False, topic_disable_leader=True,
            topic_allow_declare=False, stream_wait_empty=False,
        )  # fmt: skip
        self.app.finalize()
        self.app.service(self.redis_monitor)
        self.app.service(KafkaProbe(settings, self.health, self.members))
        self.config_watcher = ConfigWatcher(self.configuration, self.health)
        self.app.service(self.config_watcher)
        self._add_stages()
        self.web = Web(
            settings.http_bind, self.health, lambda: open_live(settings, self.configuration, self.store),
            settings.sink if "emit" in settings.stage_names else None,
        )  # fmt: skip

    def members(self) -> list[GroupMember]:
        """The members of consumer groups, one per stage that reads a topic."""
        return [consumer.member for consumer in self.consumers]

    def _add_stages(self) -> None:
        settings, configuration, store, health = self.settings, self.configuration, self.store, self.health
        names = settings.stage_names
        if "intake" in names:
            member = GroupMember(Intake.name, settings.alerts_topic, settings, health)
            self._consume(member, Intake(settings, configuration, store, health, member))
        if "close" in names:
            self.close = Close(settings, configuration, store, health)
            self.app.service(self.close)
        if "fold" in names:
            member = GroupMember(Fold.name, settings.keyed_topic, settings, health)
            fold = Fold(settings, configuration, store, self.redis_monitor, health, member)
            if self.close:
                fold.on_progress = self.close.wake
            self._consume(member, fold)
        if "correlate" in names:
            self.correlate = Correlate(settings, configuration, store, health)
            self.app.service(self.correlate)
        if "emit" in names:
            for kind in KINDS:
                emitted = Emitted(kind, settings, configuration)
                sink = open_sink(settings.sink, settings, kind)
                member = GroupMember(kind.component, emitted.topic, settings, health)
                self._consume(member, Emit(emitted, settings, sink, health, member))
                self.app.service(Retention(emitted, sink, health))

    def _consume(self, member: GroupMember, stage: Stage) -> None:
        """Connects a stage to its topic: a consumer puts batches into a channel, an agent takes them from it."""
        channel = self.app.channel(maxsize=1)
        consumer = BatchConsumer(member, stage, lambda batch: channel.put(batch))

        async def agent(batches: Any) -> None:
            async for batch in batches:
                await consumer.process(batch)

        self.app.agent(channel, name=member.name, concurrency=1)(agent)
        self.app.service(consumer)
        self.stages.append(stage)
        self.consumers.append(consumer)

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT, then stops within seconds: batches in progress are finished and committed.

        SIGHUP reloads the configuration.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self.config_watcher.requested.set)
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
        """Stops the consumers first, so that agents end with no batch in progress. A failure does not stop the rest."""
        for stopping in (
            {"page": self.web.end_page(), **{consumer.member.name: consumer.stop() for consumer in self.consumers}},
            {"services": self.app.stop()},
            {consumer.member.name: stage.stop() for consumer, stage in zip(self.consumers, self.stages, strict=True)},
            {"redis": self.redis.aclose(), "web": self.web.stop()},
        ):
            results = await asyncio.gather(*stopping.values(), return_exceptions=True)
            for component, result in zip(stopping, results, strict=True):
                if isinstance(result, BaseException):
                    log.error("a component did not stop cleanly", component=component, exc_info=result)
        log.info("worker stopped")
