"""Retention: has the sink delete old storms now and then, so that a cluster's store doesn't fill up."""

import time

from stormfold import metrics
from stormfold.config import Config
from stormfold.health import Health
from stormfold.sinks import Sink
from stormfold.stages.periodic import PeriodicService

INTERVAL = 30.0
"""Seconds between two rounds."""


class Retention(PeriodicService):
    """Every worker that emits does this; deleting what is gone already is no error."""

    name = "retention"

    def __init__(self, config: Config, sink: Sink, health: Health) -> None:
        super().__init__(health)
        self._config = config
        self._sink = sink

    async def run_once(self) -> float:
        """Has the sink delete what is too old or too much."""
        now = time.time_ns() // 1_000_000
        await self._sink.delete_expired(now, self._config.retention, self._config.max_storms, self._on_deleted)
        return INTERVAL

    def _on_deleted(self, count: int) -> None:
        # The first round after an outage, or with a smaller limit, can take minutes.
        self.health.heartbeat(self.name)
        metrics.RESOURCES_DELETED.inc(count)
