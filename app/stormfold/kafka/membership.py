"""Membership in a consumer group: joining, leaving, and what a rebalance does to a member."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from stormfold import metrics
from stormfold.attempts import seconds_since
from stormfold.kafka._patches import raw_record
from stormfold.kafka.client import client_options, diagnose
from stormfold.kafka.member import GroupMember
from stormfold.kafka.topics import partitions_of

log = structlog.get_logger(__name__)

FETCH_WAIT_MS = 250
"""Longest that a broker waits for records. An idle partition's end is seen this often, so it is also the finest step
of event time."""
PARTITION_FETCH_BYTES = 1024 * 1024
"""Of one partition in one answer, some 2,000 alerts; a larger record is fetched alone. Answers are held until they are
polled: they are most of a worker's memory during a backlog, and larger ones miss the caches."""
FETCH_BYTES = 4 * 1024 * 1024
"""Of all partitions in one answer. It must arrive within the request timeout, also over a link of 4 Mbit/s."""
MAX_POLL_INTERVAL_MS = 86_400_000
"""A stage may wait for Redis or the API server without limit. Health reports it; leaving the group would not help."""
LEAVE_SECONDS = 3.0
"""Longest that leaving the group may take."""


async def join(member: GroupMember, listener: "RebalanceListener") -> None:
    """Joins the group. Raises `Retry` or `ActionRequired`."""
    # Checked before subscribing: brokers may create a missing topic on their own, with the wrong settings.
    await partitions_of(member.settings, member.topic)
    session_ms = round(member.settings.session_timeout * 1000)
    client = AIOKafkaConsumer(
        **client_options(member.settings),
        client_id=f"stormfold-{member.name}",
        group_id=member.group,
        enable_auto_commit=False,
        # The client must never choose a position: records that it passed over would be lost unnoticed.
        auto_offset_reset="none",
        isolation_level="read_committed",
        value_deserializer=raw_record,
        session_timeout_ms=session_ms,
        heartbeat_interval_ms=session_ms // 5,
        max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
        fetch_max_wait_ms=FETCH_WAIT_MS,
        max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
        fetch_max_bytes=FETCH_BYTES,
    )
    try:
        await client.start()
    except (KafkaError, OSError) as error:
        await client.stop()
        raise await diagnose(error, member.settings) from error
    member.client = client
    client.subscribe([member.topic], listener=listener)


async def leave(member: GroupMember) -> None:
    """Leaves the group, if the member is in it."""
    if member.client is not None:
        # Right after a rebalance aiokafka can lose the cancellation that it waits for. Without a broker it cancels
        # a fetch that waits for its next attempt, and raises that cancellation.
        await asyncio.wait({asyncio.ensure_future(member.client.stop())}, timeout=LEAVE_SECONDS)


class RebalanceListener(ConsumerRebalanceListener):
    """Applies rebalances of the group to a member.

    `drain` waits, at most that many seconds, until the batch in progress is processed and committed.
    """

    def __init__(self, member: GroupMember, drain: Callable[[float], Awaitable[None]]) -> None:
        self._member = member
        self._drain = drain
        self._started = time.monotonic()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Finishes the batch in progress, then makes everything of the assignment invalid."""
        member, self._started = self._member, time.monotonic()
        partitions = sorted(tp.partition for tp in revoked)
        if partitions:
            await self._drain(member.settings.session_timeout / 3)
            log.info(
                "partitions revoked", stage=member.name, topic=member.topic, partitions=partitions,
                positions=member.positions, duration_seconds=seconds_since(self._started),
            )  # fmt: skip
        member.invalidate_assignment()
        member.positions, member.event_times, member.start_offsets = {}, {}, {}

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Pauses the new partitions until their positions are known."""
        member, assigned = self._member, list(assigned)
        metrics.ASSIGNMENTS.labels(member.name).inc()
        log.info(
            "partitions assigned", stage=member.name, topic=member.topic,
            partitions=sorted(tp.partition for tp in assigned), duration_seconds=seconds_since(self._started),
        )  # fmt: skip
        member.invalidate_assignment()
        member.awaiting_first_poll = True
        member.client.pause(*assigned)
