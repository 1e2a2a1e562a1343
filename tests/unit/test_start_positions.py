"""Positions of assigned partitions: where reading starts, what is lost, and which partitions are not read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition

from stormfold import metrics
from stormfold.health import Health
from stormfold.kafka.group_member import GroupMember
from stormfold.kafka.start_positions import PositionAssigner
from stormfold.positions import Position
from stormfold.settings import Settings


@dataclass
class Client:
    """A consumer with one partition or more: where its log begins and ends, and what the group committed."""

    begins: dict[int, int]
    ends: dict[int, int]
    commits: dict[int, int] = field(default_factory=dict)
    positions: dict[int, int] = field(default_factory=dict)
    paused: set[int] = field(default_factory=set)

    def assignment(self) -> set[TopicPartition]:
        return {TopicPartition("alerts", partition) for partition in self.begins}

    async def beginning_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.begins[tp.partition] for tp in tps}

    async def end_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.ends[tp.partition] for tp in tps}

    async def committed(self, tp: TopicPartition) -> int | None:
        return self.commits.get(tp.partition)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.positions[tp.partition] = offset

    def pause(self, *tps: TopicPartition) -> None:
        self.paused |= {tp.partition for tp in tps}

    def resume(self, *tps: TopicPartition) -> None:
        self.paused -= {tp.partition for tp in tps}


@dataclass(frozen=True)
class Stored:
    """A record of the log."""

    offset: int
    timestamp: int


async def assigned(client: Client, starts: Mapping[int, Position | None]) -> tuple[GroupMember, PositionAssigner]:
    """A member whose stage found these starts."""
    member = GroupMember("intake", "alerts", Settings(), Health())
    member.client = client
    member.client.pause(*client.assignment())
    member.invalidate_assignment()
    assigner = PositionAssigner(member)

    async def find(_client: Any, _partitions: set[int]) -> Mapping[int, Position | None]:
        return starts

    await assigner.assign_positions(find)
    assert not member.needs_positions
    return member, assigner


def lost(partition: int) -> float:
    """Records that the metric counts as lost."""
    return metrics.REGISTRY.get_sample_value(
        "stormfold_lost_records_total", {"stage": "intake", "partition": str(partition)}
    ) or 0.0  # fmt: skip


async def test_reading_starts_one_record_before_a_known_position() -> None:
    """That record shows whether the topic is the one that was read."""
    client = Client({0: 0}, {0: 9})
    member, assigner = await assigned(client, {0: Position(5, 1000)})
    assert (client.positions, member.positions, client.paused) == ({0: 4}, {0: 5}, set())
    records: dict[int, list[Any]] = {0: [Stored(4, 1000), Stored(5, 2000)]}
    assigner.verify_positions(records)
    assert records == {0: [Stored(5, 2000)]} and not member.quarantined


async def test_another_record_before_the_position_quarantines_the_partition() -> None:
    """The topic was deleted and created again: a person must decide."""
    client = Client({0: 0}, {0: 9})
    member, assigner = await assigned(client, {0: Position(5, 1000)})
    assigner.verify_positions({0: [Stored(4, 999)]})  # type: ignore[list-item]
    assert member.quarantined.keys() == client.paused == {0}
    (problem,) = member.health.problems()
    assert "alerts-0 seems to have been deleted and created again" in problem.problem
    assert problem.hint and "--reset-positions" in problem.hint


async def test_a_transactions_marker_before_the_position_proves_nothing() -> None:
    """The first record that can be read has a higher offset."""
    member, assigner = await assigned(Client({0: 0}, {0: 9}), {0: Position(5, 1000)})
    records: dict[int, list[Any]] = {0: [Stored(6, 2000)]}
    assigner.verify_positions(records)
    assert records == {0: [Stored(6, 2000)]} and not member.quarantined


async def test_a_position_after_the_end_quarantines_the_partition() -> None:
    """The others are read."""
    client = Client({0: 0, 1: 0}, {0: 3, 1: 9})
    member, _ = await assigned(client, {0: Position(5, 1000), 1: None})
    assert member.quarantined.keys() == client.paused == {0}
    assert member.start_offsets == {1: 0}


async def test_a_partition_without_a_start_is_unmanaged() -> None:
    """It is paused at a position, because the client would ask for one again and again."""
    client = Client({0: 0, 1: 4}, {0: 3, 1: 9})
    member, _ = await assigned(client, {0: None})
    assert member.unmanaged == client.paused == {1}
    assert client.positions == {0: 0, 1: 4} and member.positions == {0: 0}


async def test_records_that_retention_deleted_are_counted_once() -> None:
    """From the last known position to the log's beginning; a second assignment adds nothing."""
    before = lost(0)
    client = Client({0: 100}, {0: 200}, commits={0: 60})
    member, assigner = await assigned(client, {0: Position(60, 1000)})
    assert (member.positions, client.positions) == ({0: 100}, {0: 100})
    assert lost(0) - before == 40

    async def find(_client: Any, _partitions: set[int]) -> Mapping[int, Position | None]:
        return {0: Position(60, 1000)}

    member.rewind()
    await assigner.assign_positions(find)
    assert lost(0) - before == 40


async def test_positions_of_an_outdated_assignment_are_not_used() -> None:
    """A rebalance may happen while the stage looks for them."""
    client = Client({0: 0}, {0: 9})
    member = GroupMember("intake", "alerts", Settings(), Health())
    member.client = client
    member.invalidate_assignment()

    async def find(_client: Any, _partitions: set[int]) -> Mapping[int, Position | None]:
        member.invalidate_assignment()
        return {0: Position(5)}

    await PositionAssigner(member).assign_positions(find)
    assert member.needs_positions and client.positions == {} == member.positions
