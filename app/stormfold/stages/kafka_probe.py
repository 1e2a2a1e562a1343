"""Finds out whether silent stages wait for Kafka: its clients retry without limit and do not report why."""

import time
from collections.abc import Callable, Iterable

from stormfold.errors import StormfoldError
from stormfold.health import Health
from stormfold.kafka.client import check_brokers
from stormfold.kafka.group_member import GroupMember
from stormfold.settings import Settings
from stormfold.stages.periodic import PeriodicService

INTERVAL = 1.0
"""Seconds between two checks."""
RESPONSE_TIMEOUT = 5.0
"""Seconds without a heartbeat of a stage, or a response to it, after which a new connection to Kafka is tried."""


class KafkaProbe(PeriodicService):
    """Reports that Kafka is unavailable. Stages that wait for it are not stale then: another worker would wait too."""

    name = "kafka"

    def __init__(self, settings: Settings, health: Health, members: Callable[[], Iterable[GroupMember]]) -> None:
        super().__init__(health)
        self._settings = settings
        self._members = members
        self._unavailable = False

    async def run_once(self) -> float:
        """Connects to all brokers if Kafka was silent, and until they respond. Raises the reason if one does not."""
        if self._unavailable or self._is_silent():
            self._unavailable = True
            try:
                await check_brokers(self._settings)
            except StormfoldError:
                for stage in self._stages():
                    self.health.heartbeat(stage)
                raise
            self._unavailable = False
        return INTERVAL

    def _stages(self) -> set[str]:
        members = {member.name for member in self._members()}
        return self.health.heartbeats.keys() & (members | set(self._settings.stage_names))

    def _is_silent(self) -> bool:
        moments = [member.last_response_at for member in self._members()]
        moments += [self.health.heartbeats[stage] for stage in self._stages()]
        return time.monotonic() - min(moments, default=time.monotonic()) > RESPONSE_TIMEOUT
