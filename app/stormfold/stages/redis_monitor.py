"""Watches Redis' memory: for the metrics, and so that detail is given up before progress."""

from contextlib import suppress

import structlog

from stormfold import metrics
from stormfold.config import Config
from stormfold.errors import StormfoldError
from stormfold.health import Health
from stormfold.redis.store import Limits, Memory, Store
from stormfold.stages.periodic import PeriodicService

log = structlog.get_logger(__name__)

INTERVAL = 1.0
"""Seconds between two looks."""
CROWDED = 0.85
"""Share of maxmemory above which new fingerprints are counted but no longer listed."""


class RedisMonitor(PeriodicService):
    """Knows the limits that fold applies now."""

    name = "redis"

    def __init__(self, config: Config, store: Store, health: Health) -> None:
        super().__init__(health)
        self._config = config
        self._store = store
        self.memory: Memory | None = None
        self.limits = Limits(config.max_fingerprints, config.max_groups)

    async def run_once(self) -> float:
        """Looks at Redis. Raises `ActionRequired` if it may evict keys."""
        memory = await self._store.memory()
        self._seen(memory)
        memory.check_eviction()
        return INTERVAL

    async def look(self) -> None:
        """Looks between rounds, if Redis is there."""
        with suppress(StormfoldError):
            self._seen(await self._store.memory())

    def _seen(self, memory: Memory) -> None:
        self.memory = memory
        crowded = memory.share > CROWDED
        if crowded == self.limits.track_new:
            log.warning("Redis is crowded" if crowded else "Redis has room again", share=round(memory.share, 3))
        self.limits = Limits(self._config.max_fingerprints, self._config.max_groups, track_new=not crowded)
        metrics.REDIS_USED_BYTES.set(memory.used)
        metrics.REDIS_MAX_BYTES.set(memory.maximum)
        metrics.REDIS_FRAGMENTATION_RATIO.set(memory.fragmentation)
        metrics.REDIS_EVICTED_KEYS.set(memory.evicted)
