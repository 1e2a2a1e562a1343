"""Ends of partitions: the lag of a stage, whether a partition has been read to its end, and open transactions."""

import asyncio
import time

import structlog
from aiokafka import TopicPartition

from stormfold.kafka.batch import PartitionEnd
from stormfold.kafka.group_member import GroupMember
from stormfold.kafka.transactions import OpenTransactions, describe

log = structlog.get_logger(__name__)

REQUEST_SECONDS = 3.0
"""Longest wait for the ends of all partitions. After that, each partition is requested on its own."""


class EndTracker:
    """Requests the end offsets of a member's partitions independently of polling, which waits while the stage does."""

    def __init__(self, member: GroupMember) -> None:
        self._member = member
        self._responses: dict[int, tuple[int | None, int]] = {}
        """When the last two fetches of a partition were answered (ms)."""
        self._leader_ends: dict[int, PartitionEnd] = {}
        """Ends as the leaders of partitions returned them last."""
        self._transactions = OpenTransactions()

    async def update(self) -> None:
        """Requests all ends once. Logs failures; polling reports them."""
        member = self._member
        if member.client is not None and not member.generation:
            # It waits for its first assignment; if that takes long, a broker may be out of reach.
            return
        try:
            await self._request_all()
            member.last_response_at = time.monotonic()
            self._report_transactions()
        except Exception as error:
            # An unknown lag is better than an outdated one.
            member.end_offsets = member.log_ends = {}
            log.debug("lag is unknown", stage=member.name, topic=member.topic, error=str(error))
            # One broker that is away must not hold back partitions that others lead.
            each = (self._request([tp]) for tp in self._managed())
            await asyncio.gather(*each, return_exceptions=True)

    async def read_to_end(self) -> dict[int, PartitionEnd]:
        """Returns the partitions that have been read to their ends, as of the last poll."""
        member = self._member
        ends, polled = {}, set()
        for tp in member.client.assignment():
            position = await member.client.position(tp)
            end, answered = member.client.highwater(tp), member.client.last_poll_timestamp(tp)
            if end is None or answered is None:
                continue
            polled.add(tp.partition)
            stable = member.client.last_stable_offset(tp)
            member.end_offsets[tp.partition] = max(stable, member.end_offsets.get(tp.partition, 0))
            member.log_ends[tp.partition] = max(end, member.log_ends.get(tp.partition, 0))
            requested, from_leader = self._requested_at(tp.partition, answered), self._leader_ends.get(tp.partition)
            if requested is None or from_leader is None or tp.partition in member.unread:
                continue
            # Both are needed. A new leader answers a fetch before it knows how much of its log the previous one had
            # acknowledged, but not a request for the end (KIP-207). That end is the beginning of an open transaction.
            if position >= max(end, from_leader.offset):
                ends[tp.partition] = PartitionEnd(min(requested, from_leader.as_of), position)
        member.polled = polled
        return ends

    async def _request_all(self) -> None:
        member = self._member
        generation, tps = member.generation, self._managed()
        if not tps:
            self._transactions.update({}, {}, time.monotonic())
            return
        ends, log_ends = await self._request(tps)
        positions = {}
        # While the stage cannot find its positions, its lag counts from the last commit.
        for tp in [tp for tp in tps if tp.partition not in member.positions]:
            committed = await member.client.committed(tp)
            positions[tp.partition] = await member.beginning_offset(tp.partition) if committed is None else committed
        if generation == member.generation:
            member.end_offsets = {tp.partition: end for tp, end in ends.items()}
            member.log_ends = {tp.partition: end for tp, end in log_ends.items()}
            self._transactions.update(member.end_offsets, member.log_ends, time.monotonic())
            # Positions that were assigned in the meantime are newer.
            member.positions = positions | member.positions

    async def _request(self, tps: list[TopicPartition]) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """The ends of partitions, and of their logs. The latter come first: records of the time in between are no
        open transaction."""
        async with asyncio.timeout(REQUEST_SECONDS):
            log_ends = await self._member.client.log_end_offsets(tps)
            requested_at = time.time_ns() // 1_000_000
            ends = await self._member.client.end_offsets(tps)
        self._leader_ends |= {tp.partition: PartitionEnd(requested_at, end) for tp, end in ends.items()}
        return ends, log_ends

    def _report_transactions(self) -> None:
        member, old = self._member, self._transactions.old(time.monotonic())
        if not old:
            member.health.clear_warning(member.topic)
            return
        problem, hint = describe(member.topic, old)
        if member.health.set_warning(member.topic, problem, hint):
            log.warning("a transaction stays open", stage=member.name, topic=member.topic, problem=problem, hint=hint)

    def _managed(self) -> list[TopicPartition]:
        return self._member.topic_partitions(self._member.assigned() - self._member.unmanaged)

    def _requested_at(self, partition: int, answered: int) -> int | None:
        """Lower bound of when a fetch was requested: the answer before, after which the client sends the next request.

        None if there has been only one answer.
        """
        before, last = self._responses.get(partition, (None, None))
        if answered != last:
            before, _ = self._responses[partition] = last, answered
        return before
