"""Deletes old resources in the sink at intervals, so that a cluster's store does not fill up."""

import time

from stormfold import metrics
from stormfold.health import Health
from stormfold.sinks import Sink
from stormfold.sinks.kinds import STORMS
from stormfold.stages.emitted import Emitted
from stormfold.stages.periodic import PeriodicService

INTERVAL = 30.0
"""Seconds between two runs."""


class Retention(PeriodicService):
    """Runs in every worker that emits, for each kind: deleting a resource twice is not an error."""

    def __init__(self, emitted: Emitted, sink: Sink, health: Health) -> None:
        super().__init__(health)
        self.name = "retention" if emitted.kind is STORMS else f"retention-{emitted.kind.noun}s"
        self._emitted = emitted
        self._sink = sink
        metrics.RESOURCES_DELETED.labels(emitted.kind.name)

    async def run_once(self) -> float:
        """Deletes resources that are too old or too many."""
        now, emitted = time.time_ns() // 1_000_000, self._emitted
        if namespaces := emitted.namespaces:
            await self._sink.delete_expired(namespaces, now, emitted.retention, emitted.limit, self._on_deleted)
        return INTERVAL

    def _on_deleted(self, resources: int) -> None:
        # After an outage, or with a smaller limit, one run can take minutes.
        self.health.heartbeat(self.name)
        metrics.RESOURCES_DELETED.labels(self._emitted.kind.name).inc(resources)
