"""What goes on by itself beside the agents: rounds, one after the other, that no error ends."""

import structlog
from mode import Service

from stormfold.errors import StormfoldError
from stormfold.health import Health

log = structlog.get_logger(__name__)

BACKOFF = 1.0
"""Seconds to wait after a round that failed."""


class PeriodicService(Service):
    """Goes round until it is stopped; tells health how each round went."""

    name = "loop"

    def __init__(self, health: Health) -> None:
        super().__init__()
        self.health = health

    async def round(self) -> float:
        """One round; returns the seconds to wait until the next. Raises `Retry` or `ActionRequired`."""
        raise NotImplementedError

    @Service.task
    async def _go_round(self) -> None:
        while not self.should_stop:
            try:
                wait = await self.round()
            except StormfoldError as error:
                wait = BACKOFF
                if self.health.set_unhealthy(self.name, str(error), error.hint):
                    log.warning("cannot go on", part=self.name, error=str(error))
            except Exception as error:
                # A defect of ours; to be gone would be worse than to try again.
                wait = BACKOFF
                if self.health.set_unhealthy(self.name, f"unexpected {type(error).__name__}: {error}"):
                    log.exception("round failed", part=self.name)
            else:
                self.health.set_healthy(self.name)
            await self.sleep(wait)
