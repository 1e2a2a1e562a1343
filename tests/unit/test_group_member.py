"""A member of a consumer group: when it is behind."""

import time

from stormfold.health import Health
from stormfold.kafka.group_member import GroupMember
from stormfold.settings import Settings


def test_one_partition_that_is_current_is_enough() -> None:
    """Its alerts must not wait for more."""
    member = GroupMember("fold", "keyed", Settings(), Health())
    assert not member.is_behind()
    now = time.time_ns() // 1_000_000
    for partition, before_now, expected in [(0, 3_600_000, True), (1, 60_000, True), (1, 0, False), (0, 30_000, False)]:
        member.event_times[partition] = now - before_now
        assert member.is_behind() == expected, before_now
