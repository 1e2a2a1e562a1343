"""Retention: has the sink delete old storms now and then, so that a cluster's store doesn't fill up."""

import time

import structlog
from mode import Service

from app import metrics
from app.config import Config
from app.errors import StormfoldError
from app.health import Health
from app.sinks import Sink

log = structlog.get_logger(__name__)

EVERY = 60.0
"""Seconds between two rounds."""


class Retain(Service):
    """Every worker that emits does this; deleting what is gone already is no error."""

    name = "retention"

    def __init__(self, config: Config, sink: Sink, health: Health) -> None:
        super().__init__()
        self._config = config
        self._sink = sink
        self._health = health

    @Service.task
    async def _retain(self) -> None:
        while not self.should_stop:
            await self.sleep(EVERY)
            try:
                now = time.time_ns() // 1_000_000
                gone = await self._sink.retain(now, self._config.retention, self._config.max_storms)
            except StormfoldError as error:
                if self._health.ill(self.name, str(error), getattr(error, "advice", None)):
                    log.warning("cannot delete old storms", error=str(error))
            else:
                metrics.STORMS_RETAINED.inc(gone)
                self._health.well(self.name)
