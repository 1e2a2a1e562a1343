"""Work that is repeated independently of the agents, whatever errors it ends with."""

import asyncio

import structlog
from mode import Service

from stormfold.attempts import Attempts
from stormfold.errors import StormfoldError, unexpected
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
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Ends the wait until the next time, or the next wait. It does not shorten the wait after a failure."""
        self._woken.set()

    async def run_once(self) -> float:
        """Does the work once; returns the seconds to wait until the next time. Raises `Retry` or `ActionRequired`."""
        raise NotImplementedError

    @Service.task
    async def _run(self) -> None:
        attempts = Attempts()
        while not self.should_stop:
            self._woken.clear()
            try:
                wait = await self.run_once()
            except Exception as error:
                attempt = attempts.fail()
                problem = error if isinstance(error, StormfoldError) else unexpected(error)
                if self.health.set_unhealthy(self.name, str(problem), problem.hint):
                    report = log.warning if problem is error else log.exception
                    report("component failed", component=self.name, error=str(problem), **attempt)
                await self.sleep(BACKOFF)
            else:
                self.health.set_healthy(self.name)
                if recovery := attempts.succeed():
                    log.info("component recovered", component=self.name, **recovery)
                await self.wait_first(self._woken, timeout=wait)
