"""Watches Redis' memory: for the metrics, and so that detail is given up before progress."""

import structlog
from mode import Service

from app import metrics
from app.config import Config
from app.errors import StormfoldError
from app.health import Health
from app.store.redis import Limits, Memory, Store

log = structlog.get_logger(__name__)

EVERY = 1.0
"""Seconds between two looks."""
CROWDED = 0.85
"""Share of maxmemory above which new fingerprints are counted but no longer listed."""
POLICY = "noeviction"


class Watch(Service):
    """Knows the limits that fold applies now."""

    def __init__(self, config: Config, store: Store, health: Health) -> None:
        super().__init__()
        self._config = config
        self._store = store
        self._health = health
        self.memory: Memory | None = None
        self.limits = Limits(config.max_fingerprints, config.max_groups)

    @Service.task
    async def _watch(self) -> None:
        while not self.should_stop:
            try:
                self._look(await self._store.memory())
            except StormfoldError as error:
                self._health.ill("redis", str(error), getattr(error, "advice", None))
            await self.sleep(EVERY)

    def _look(self, memory: Memory) -> None:
        self.memory = memory
        crowded = memory.share > CROWDED
        if crowded == self.limits.list_new:
            log.warning("Redis is crowded" if crowded else "Redis has room again", share=round(memory.share, 3))
        self.limits = Limits(self._config.max_fingerprints, self._config.max_groups, list_new=not crowded)
        metrics.REDIS_USED.set(memory.used)
        metrics.REDIS_MAX.set(memory.maximum)
        metrics.REDIS_FRAGMENTATION.set(memory.fragmentation)
        metrics.REDIS_EVICTED.set(memory.evicted)
        if memory.evicted or (memory.maximum and memory.policy != POLICY):
            self._health.ill(
                "redis",
                f"Redis may throw keys away: policy {memory.policy}, {memory.evicted} evicted",
                f"set maxmemory-policy {POLICY}",
            )
        else:
            self._health.well("redis")
