"""Work that is repeated independently of the agents, whatever errors it ends with."""

import time

import structlog
from mode import Service

from stormfold.errors import StormfoldError
from stormfold.health import Health

log = structlog.get_logger(__name__)

BACKOFF = 1.0
"""Seconds to wait after a failure."""


class PeriodicService(Service):
    """Calls `run_once` repeatedly until it is stopped; reports each result to health under `name`."""

    name = "periodic"

    def __init__(self, health: Health) -> None:
        super().__init__()
        self.health = health

    async def run_once(self) -> float:
        """Does the work once; returns the seconds to wait until the next time. Raises `Retry` or `ActionRequired`."""
        raise NotImplementedError

    @Service.task
    async def _run(self) -> None:
        attempt, failing_since = 0, 0.0
        while not self.should_stop:
            try:
                wait = await self.run_once()
            except Exception as error:
                attempt += 1
                if attempt == 1:
                    failing_since = time.monotonic()
                wait = BACKOFF
                self._report(error, attempt, round(time.monotonic() - failing_since, 3))
            else:
                attempt = 0
                self.health.set_healthy(self.name)
            await self.sleep(wait)

    def _report(self, error: Exception, attempt: int, seconds: float) -> None:
        # Anything but a StormfoldError is a defect; trying again is better than a task that ended.
        expected = isinstance(error, StormfoldError)
        problem = str(error) if expected else f"unexpected {type(error).__name__}: {error}"
        if self.health.set_unhealthy(self.name, problem, getattr(error, "hint", None)):
            log.warning(
                "component failed", component=self.name, error=problem, attempt=attempt, duration_seconds=seconds,
                exc_info=None if expected else error,
            )  # fmt: skip
