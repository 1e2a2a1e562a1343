"""Reloads the configuration when its file changes, or on request; a file that cannot be used changes nothing."""

import asyncio
import time

import structlog

from stormfold import metrics
from stormfold.config import ConfigError, ReloadableConfig
from stormfold.health import Health
from stormfold.stages.periodic import PeriodicService

log = structlog.get_logger(__name__)

INTERVAL = 1.0
"""Seconds between two looks at the file."""


class ConfigWatcher(PeriodicService):
    """Keeps the configuration of a worker as its file is. Setting `requested` reloads the file at once."""

    name = "configuration"

    def __init__(self, configuration: ReloadableConfig, health: Health) -> None:
        super().__init__(health)
        self.requested = asyncio.Event()
        self._configuration = configuration
        metrics.CONFIG_LAST_RELOAD_SUCCESSFUL.set(1)
        metrics.CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP_SECONDS.set_to_current_time()

    async def run_once(self) -> float:
        """Waits for a request, at most `INTERVAL`, and reloads the file if it was requested or the file changed."""
        await self.wait_first(self.requested, timeout=INTERVAL)
        requested = self.requested.is_set()
        self.requested.clear()
        if self._configuration.path is None:
            if requested:
                log.warning("no configuration file to reload", hint="start with --config FILE")
        elif await asyncio.to_thread(self._configuration.changed) or requested:
            await self._reload(requested)
        return 0.0

    async def _reload(self, requested: bool) -> None:
        file, started = str(self._configuration.path), time.monotonic()
        try:
            changes = await asyncio.to_thread(self._configuration.reload)
        except ConfigError as error:
            metrics.CONFIG_LAST_RELOAD_SUCCESSFUL.set(0)
            hint = f"correct it: `stormfold check {file}` shows every problem"
            self.health.set_warning(self.name, f"{file} is refused, the configuration before applies: {error}", hint)
            log.warning("configuration refused, the one before applies", file=file, error=str(error), hint=hint)
            return
        refused_before = self.name in self.health.warnings
        self.health.clear_warning(self.name)
        metrics.CONFIG_LAST_RELOAD_SUCCESSFUL.set(1)
        metrics.CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP_SECONDS.set_to_current_time()
        if changes or refused_before or requested:
            seconds = round(time.monotonic() - started, 3)
            log.info("configuration reloaded", file=file, changed=changes, duration_seconds=seconds)
