"""Reports alerts that senders left out of their webhooks: they never arrive, so nothing else can count them."""

import time

import structlog

from stormfold import metrics
from stormfold.health import Health

log = structlog.get_logger(__name__)

WARNING_SECONDS = 600.0
"""How long the warning lasts, and the shortest time between two in the log."""
HINT = "raise or remove max_alerts of Alertmanager's webhook receiver, or of the contact point"


class LeftOutAlerts:
    """A metric, a warning of the worker, and now and then a line in the log."""

    name = "senders"

    def __init__(self, health: Health) -> None:
        self._health = health
        self._count = 0
        """Alerts since the warning began."""
        self._last = self._logged_at = float("-inf")

    def add(self, count: int) -> None:
        """Reports this many more alerts."""
        metrics.ALERTS_LEFT_OUT.inc(count)
        self._count += count
        self._last = time.monotonic()
        text = f"senders left {self._count:,} alerts out of their webhooks (truncatedAlerts): nothing counts them"
        self._health.set_warning(self.name, text, HINT)
        if self._last - self._logged_at > WARNING_SECONDS:
            self._logged_at = self._last
            log.warning("senders leave alerts out of their webhooks: nothing counts them", alerts=count, hint=HINT)

    def update(self) -> None:
        """Ends the warning some time after the last such webhook."""
        if self._count and time.monotonic() - self._last > WARNING_SECONDS:
            self._count = 0
            self._health.clear_warning(self.name)
