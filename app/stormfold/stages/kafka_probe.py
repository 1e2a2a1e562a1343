"""Finds out whether Kafka is what silent stages wait for: its clients try again for ever, and say nothing of why."""

import time
from collections.abc import Callable, Iterable

from stormfold.errors import StormfoldError
from stormfold.health import Health
from stormfold.kafka.client import metadata
from stormfold.kafka.consumer import BatchConsumer
from stormfold.settings import Settings
from stormfold.stages.periodic import PeriodicService

EVERY = 1.0
"""Seconds between two looks."""
SILENCE = 5.0
"""Seconds without a sign of life of a stage, or an answer to it, after which Kafka is asked by a new connection."""


class KafkaProbe(PeriodicService):
    """Tells of Kafka where that is the reason; those that wait are not dead then, for another worker would wait too."""

    name = "kafka"

    def __init__(self, settings: Settings, health: Health, ingests: Callable[[], Iterable[BatchConsumer]]) -> None:
        super().__init__(health)
        self._settings = settings
        self._ingests = ingests
        self._away = False

    async def round(self) -> float:
        """Asks Kafka if it was silent; until it answers, once it was. Raises what keeps it from an answer."""
        if self._away or self._silent():
            self._away = True
            try:
                await metadata(self._settings, ())
            except StormfoldError:
                for stage in self._stages():
                    self.health.heartbeat(stage)
                raise
            self._away = False
        return EVERY

    def _stages(self) -> set[str]:
        return self.health.heartbeats.keys() & set(self._settings.stage_names)

    def _silent(self) -> bool:
        heard = [ingest.heard for ingest in self._ingests()]
        heard += [self.health.heartbeats[stage] for stage in self._stages()]
        return time.monotonic() - min(heard, default=time.monotonic()) > SILENCE
