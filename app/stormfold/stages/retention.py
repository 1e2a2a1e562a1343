"""Deletes old resources in the sink at intervals, so that a cluster's store does not fill up."""

import time

from stormfold import metrics
from stormfold.config import ReloadableConfig
from stormfold.health import Health
from stormfold.sinks import Sink
from stormfold.stages.periodic import PeriodicService

INTERVAL = 30.0
"""Seconds between two runs."""


class Retention(PeriodicService):
    """Runs in every worker that emits: deleting a resource twice is not an error."""

    name = "retention"

    def __init__(self, configuration: ReloadableConfig, sink: Sink, health: Health) -> None:
        super().__init__(health)
        self._configuration = configuration
        self._sink = sink

    async def run_once(self) -> float:
        """Deletes resources that are too old or too many."""
        now = time.time_ns() // 1_000_000
        config = self._configuration.current.config
        await self._sink.delete_expired(now, config.retention, config.max_storms, self._on_deleted)
        return INTERVAL

    def _on_deleted(self, resources: int) -> None:
        # After an outage, or with a smaller limit, one run can take minutes.
        self.health.heartbeat(self.name)
        metrics.RESOURCES_DELETED.inc(resources)
