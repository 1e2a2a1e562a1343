"""What a rebalance of the consumer group does to a member."""

import time
from collections.abc import Awaitable, Callable, Iterable

import structlog
from aiokafka import ConsumerRebalanceListener, TopicPartition

from stormfold import metrics
from stormfold.attempts import seconds_since
from stormfold.kafka.group_member import GroupMember

log = structlog.get_logger(__name__)


class RebalanceListener(ConsumerRebalanceListener):
    """Applies rebalances of the group to a member.

    `drain` waits, at most that many seconds, until the batch in progress is processed and committed.
    """

    def __init__(self, member: GroupMember, drain: Callable[[float], Awaitable[None]]) -> None:
        self._member = member
        self._drain = drain
        self._log = log.bind(stage=member.name, topic=member.topic)
        self._started = time.monotonic()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Finishes the batch in progress, then makes everything of the assignment invalid."""
        member, self._started = self._member, time.monotonic()
        partitions = sorted(tp.partition for tp in revoked)
        if partitions:
            await self._drain(member.settings.session_timeout / 3)
            seconds = seconds_since(self._started)
            at = member.positions
            self._log.info("partitions revoked", partitions=partitions, positions=at, duration_seconds=seconds)
        member.invalidate_assignment()
        member.positions, member.event_times, member.start_offsets = {}, {}, {}

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Pauses the new partitions until their positions are known."""
        member, assigned = self._member, list(assigned)
        metrics.ASSIGNMENTS.labels(member.name).inc()
        partitions = sorted(tp.partition for tp in assigned)
        self._log.info("partitions assigned", partitions=partitions, duration_seconds=seconds_since(self._started))
        member.invalidate_assignment()
        member.awaiting_first_poll = True
        member.client.pause(*assigned)
