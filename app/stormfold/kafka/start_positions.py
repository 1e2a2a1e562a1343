"""The positions that assigned partitions are read from: the stage finds them, and they are checked against the log."""

import time
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from stormfold import metrics
from stormfold.attempts import seconds_since
from stormfold.errors import ActionRequired
from stormfold.kafka._patches import Record
from stormfold.kafka.group_member import GroupMember
from stormfold.positions import (
    Position,
    RecordTime,
    Verdict,
    check_position,
    contradicts,
    lost_records,
    offset_to_verify,
)

log = structlog.get_logger(__name__)

FindStartPositions = Callable[[AIOKafkaConsumer, set[int]], Awaitable[Mapping[int, Position | None]]]
"""Returns where the assigned partitions start, None for the beginning; missing ones are unmanaged. Raises `Retry` or
`ActionRequired`, and is called again."""


class PositionAssigner:
    """Assigns positions to the partitions of a member.

    A partition that cannot be the one that was read before, because it was deleted and created again, is quarantined.
    """

    def __init__(self, member: GroupMember) -> None:
        self._member = member
        self._log = log.bind(stage=member.name, topic=member.topic)
        self._unverified: dict[int, Position] = {}
        """Positions to compare with the record before them, which is read first."""

    async def assign_positions(self, find_start_positions: FindStartPositions) -> None:
        """Moves the client to the positions of all assigned partitions. Raises what `find_start_positions` raises."""
        member, client, started = self._member, self._member.client, time.monotonic()
        generation, partitions = member.generation, member.assigned()
        tps = member.topic_partitions(partitions)
        starts = await find_start_positions(client, partitions)
        begins = await client.beginning_offsets(tps)
        ends = await client.end_offsets(tps)
        managed = [tp for tp in tps if tp.partition in starts]
        lost = {tp: await self._count_lost(tp, starts[tp.partition], begins[tp]) for tp in managed}
        if generation != member.generation or partitions != member.assigned():
            return
        member.quarantined, member.unmanaged, self._unverified = {}, set(), {}
        positions = {}
        for tp in tps:
            # Also a partition that is not read: the client asks for its position until it has one.
            client.seek(tp, begins[tp])
            if tp in managed:
                positions[tp.partition] = self._seek(tp, starts[tp.partition], begins[tp], ends[tp], lost[tp])
            else:
                member.unmanaged.add(tp.partition)
        member.start_reading(positions, {tp.partition: end for tp, end in ends.items()})
        if member.unmanaged:
            problem = "partitions are not read: they are not part of the state version"
            self._log.warning(problem, partitions=sorted(member.unmanaged))
        self._log.info("positions assigned", positions=positions, duration_seconds=seconds_since(started))

    def verify_positions(self, records: Mapping[int, list[Record]]) -> None:
        """Compares the first records of partitions with those that were read before, and removes them."""
        for partition in self._unverified.keys() & records.keys():
            position = self._unverified.pop(partition)
            first = records[partition][0]
            if first.offset >= position.offset:
                continue
            if contradicts(RecordTime(first.offset, first.timestamp), position):
                self._quarantine(partition, f"the record at {first.offset} is not the one that was read")
                self._member.pause_unread()
            del records[partition][0]

    def _seek(self, tp: TopicPartition, start: Position | None, begin: int, end: int, lost: int) -> int:
        """Moves the client; returns the position."""
        member = self._member
        position = Position(begin) if start is None else start._replace(offset=max(start.offset, begin))
        if check_position(position, begin, end) is Verdict.RECREATED:
            self._quarantine(tp.partition, f"it ends at {end}, before the position {position.offset}")
            return position.offset
        if lost:
            metrics.LOST_RECORDS.labels(member.name, tp.partition).inc(lost)
            problem = "retention deleted records before they were read"
            self._log.error(problem, partition=tp.partition, lost=lost, beginning=begin)
        first = offset_to_verify(position, begin)
        if first is not None:
            self._unverified[tp.partition] = position
        member.client.seek(tp, position.offset if first is None else first)
        return position.offset

    async def _count_lost(self, tp: TopicPartition, start: Position | None, begin: int) -> int:
        """Records before the log's beginning that were neither processed nor counted as lost yet."""
        if start is not None:
            # `skip_expired` moves a position to the beginning and stores no timestamp.
            moved = start.offset == begin and start.timestamp < 0
            if start.offset >= begin and not moved:
                return 0
        # The stage may have chosen the beginning because its position is gone: the commit still has it.
        known = [await self._member.client.committed(tp), self._member.start_offsets.get(tp.partition)]
        if start is not None and start.offset < begin:
            known.append(start.offset)
        return lost_records(begin, (offset for offset in known if offset is not None))

    def _quarantine(self, partition: int, reason: str) -> None:
        self._member.quarantined[partition] = reason
        self._member.report_problem(
            ActionRequired(
                f"{self._member.topic}-{partition} seems to have been deleted and created again: {reason}",
                "if that was meant, run `stormfold topics --reset-positions`; until then the partition is not read",
            )
        )
