"""Ends of partitions: the lag, and when a partition counts as read to its end."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stormfold.health import Health
from stormfold.kafka.ends import EndTracker
from stormfold.kafka.group_member import GroupMember
from stormfold.settings import Settings


@dataclass
class Client:
    """A consumer with partition 0: what fetches and requests to the leader return."""

    at: int = 5
    high: int | None = 5
    stable: int = 5
    answered: int | None = None
    end: int = 5
    away: bool = False
    commits: dict[int, int] = field(default_factory=dict)

    def assignment(self) -> set[TopicPartition]:
        return {TopicPartition("alerts", 0)}

    async def position(self, _tp: TopicPartition) -> int:
        return self.at

    def highwater(self, _tp: TopicPartition) -> int | None:
        return self.high

    def last_stable_offset(self, _tp: TopicPartition) -> int | None:
        return self.stable

    async def log_end_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        if self.away:
            raise KafkaError
        return dict.fromkeys(tps, self.high or 0)

    def last_poll_timestamp(self, _tp: TopicPartition) -> int | None:
        return self.answered

    async def end_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        if self.away:
            raise KafkaError
        return dict.fromkeys(tps, self.end)

    async def beginning_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 2)

    async def committed(self, tp: TopicPartition) -> int | None:
        return self.commits.get(tp.partition)


def tracked(client: Client) -> tuple[GroupMember, EndTracker]:
    """A member with this client."""
    member = GroupMember("intake", "alerts", Settings(), Health())
    member.client, member.generation = client, 1
    return member, EndTracker(member)


async def test_an_end_needs_two_fetches_and_the_leader() -> None:
    """The time of the first fetch's answer is a lower bound of when the second was requested."""
    client = Client()
    member, tracker = tracked(client)
    assert await tracker.read_to_end() == {} and member.polled == set()
    client.answered = 1000
    assert await tracker.read_to_end() == {} and member.polled == {0}
    client.answered = 2000
    assert await tracker.read_to_end() == {}
    await tracker.update()
    assert await tracker.read_to_end() == {0: (1000, 5)}


async def test_a_member_without_its_first_assignment_has_no_response() -> None:
    """The broker that coordinates its group may be out of reach: this is looked into if the silence lasts."""
    member, tracker = tracked(Client())
    member.generation, before = 0, member.last_response_at
    await tracker.update()
    assert member.last_response_at == before
    member.generation = 1
    await tracker.update()
    assert member.last_response_at > before


async def test_a_partition_with_unread_records_is_not_at_its_end() -> None:
    """Whether the fetch or the leader knows of them: a new leader answers fetches before it knows all (KIP-207)."""
    client = Client(answered=1000)
    _, tracker = tracked(client)
    await tracker.read_to_end()
    client.answered = 2000
    client.end = 6
    await tracker.update()
    assert await tracker.read_to_end() == {}
    client.end, client.high = 5, 6
    await tracker.update()
    assert await tracker.read_to_end() == {}


async def test_the_lag_counts_from_the_commit_while_there_are_no_positions() -> None:
    """Without a commit, from the beginning of the partition."""
    client = Client(end=9)
    member, tracker = tracked(client)
    await tracker.update()
    assert member.lag == {0: 7}
    member.positions = {}
    client.commits = {0: 6}
    await tracker.update()
    assert member.lag == {0: 3}


async def test_the_lag_is_unknown_while_the_broker_is_away() -> None:
    """It is not reported with an outdated value."""
    client = Client(end=9)
    member, tracker = tracked(client)
    await tracker.update()
    answered_at = member.last_response_at
    client.away = True
    await tracker.update()
    assert member.lag == {} and member.last_response_at == answered_at


async def test_records_of_an_open_transaction_are_not_lag() -> None:
    """Neither a poll nor a request for the ends counts them."""
    client = Client(at=5, end=5, high=9, answered=1000)
    member, tracker = tracked(client)
    member.positions = {0: 4}
    await tracker.update()
    assert (member.lag, member.unstable_lag) == ({0: 1}, {0: 4})
    await tracker.read_to_end()
    assert (member.lag, member.unstable_lag) == ({0: 1}, {0: 4})


async def test_a_transaction_that_stays_open_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it ends, or the partition belongs to another worker."""
    monkeypatch.setattr("stormfold.kafka.transactions.REPORT_SECONDS", 0.0)
    client = Client(end=5, high=9)
    member, tracker = tracked(client)
    await tracker.update()
    assert "alerts-0 from offset 5" in member.health.warnings["alerts"].problem
    client.end = 9
    await tracker.update()
    assert member.health.warnings == {}
