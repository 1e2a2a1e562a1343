"""Watches the memory of Redis: for metrics, and so that detail is given up before progress."""

from contextlib import suppress

import structlog

from stormfold import metrics
from stormfold.config import ReloadableConfig
from stormfold.errors import StormfoldError
from stormfold.health import Health
from stormfold.redis.fold import Limits
from stormfold.redis.memory import Memory
from stormfold.redis.store import Store
from stormfold.stages.periodic import PeriodicService

log = structlog.get_logger(__name__)

INTERVAL = 1.0
"""Seconds between two readings."""
HIGH_SHARE = 0.85
"""Share of maxmemory above which new fingerprints are counted but do not become members."""


class RedisMonitor(PeriodicService):
    """Provides the limits that fold applies now."""

    name = "redis"

    def __init__(self, configuration: ReloadableConfig, store: Store, health: Health) -> None:
        super().__init__(health)
        self._configuration = configuration
        self._store = store
        self.memory: Memory | None = None
        config = configuration.current.config
        self.limits = Limits(config.max_fingerprints, config.max_groups)

    async def run_once(self) -> float:
        """Reads the memory once. Raises `ActionRequired` if Redis may evict keys."""
        memory = await self._store.memory()
        self._apply(memory)
        memory.check_eviction()
        return INTERVAL

    async def update(self) -> None:
        """Reads the memory between two runs, if Redis is available."""
        with suppress(StormfoldError):
            self._apply(await self._store.memory())

    def _apply(self, memory: Memory) -> None:
        self.memory = memory
        high = memory.share > HIGH_SHARE
        if high == self.limits.track_new:
            change = "above" if high else "no longer above"
            log.warning(f"Redis memory {change} {100 * HIGH_SHARE:.0f} %", share=round(memory.share, 3))
        config = self._configuration.current.config
        self.limits = Limits(config.max_fingerprints, config.max_groups, track_new=not high)
        metrics.REDIS_USED_BYTES.set(memory.used)
        metrics.REDIS_MAX_BYTES.set(memory.maximum)
        metrics.REDIS_FRAGMENTATION_RATIO.set(memory.fragmentation)
        metrics.REDIS_EVICTED_KEYS.set(memory.evicted)
