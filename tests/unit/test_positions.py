"""Whether a stored position still fits its partition."""

import pytest

from stormfold.positions import (
    Closed,
    Position,
    RecordTime,
    Verdict,
    behind_commits,
    check_position,
    expired_positions,
    lost_records,
    offset_to_verify,
    reason_to_rebuild,
)


@pytest.mark.parametrize(
    ("position", "before", "verdict"),
    [
        pytest.param(Position(15, 99), None, Verdict.VALID, id="inside the log"),
        pytest.param(Position(20, 99), None, Verdict.VALID, id="at its end"),
        pytest.param(Position(10, 99), None, Verdict.VALID, id="at its beginning"),
        pytest.param(Position(9, 99), None, Verdict.EXPIRED, id="before its beginning"),
        pytest.param(Position(21, 99), None, Verdict.RECREATED, id="after its end"),
        pytest.param(Position(15, 99), RecordTime(14, 99), Verdict.VALID, id="same record"),
        pytest.param(Position(15, 99), RecordTime(14, 98), Verdict.RECREATED, id="different record"),
        pytest.param(Position(15, 99), RecordTime(16, 98), Verdict.VALID, id="record is gone"),
        pytest.param(Position(15, -1), RecordTime(14, 98), Verdict.VALID, id="timestamp not known"),
        pytest.param(Position(10, 99), RecordTime(10, 98), Verdict.VALID, id="record before is out of the log"),
    ],
)
def test_a_position_is_judged_by_the_log_and_the_record_before_it(
    position: Position, before: RecordTime | None, verdict: Verdict
) -> None:
    assert check_position(position, 10, 20, before) is verdict


def test_only_a_record_inside_the_log_with_a_known_timestamp_is_verified() -> None:
    assert offset_to_verify(Position(11, 99), 10) == 10
    assert offset_to_verify(Position(10, 99), 10) is None
    assert offset_to_verify(Position(11), 10) is None


def test_expired_positions_move_to_the_beginning_of_the_log() -> None:
    assert expired_positions({0: Position(3), 1: Position(5), 2: Position(9)}, {0: 5, 1: 5, 2: 5}) == {0: 5}


def test_records_are_lost_only_after_the_last_offset_that_was_read() -> None:
    assert lost_records(10, []) == 0
    assert lost_records(10, [4, 7]) == 3
    assert lost_records(10, [12]) == 0


def test_redis_is_behind_if_any_commit_is_ahead_of_its_position() -> None:
    positions = {0: Position(5), 1: Position(7)}
    assert behind_commits(positions, {0: 6})
    assert not behind_commits(positions, {0: 5, 1: 3, 2: 100})


@pytest.mark.parametrize(
    ("stored", "committed", "expired", "reason"),
    [
        pytest.param(Closed(2, 1_000), Closed(2, 1_000), {}, None, id="as committed"),
        pytest.param(Closed(2, None), Closed(0, None), {}, None, id="nothing committed"),
        pytest.param(Closed(3, 900), Closed(2, 1_000), {}, None, id="closed less than a slice earlier"),
        pytest.param(Closed(2, 899), Closed(2, 1_000), {}, "before 899, but 1000", id="more than a slice earlier"),
        pytest.param(Closed(2, None), Closed(2, 1_000), {}, "before None, but 1000", id="nothing closed"),
        pytest.param(Closed(2, 1_000), Closed(3, 1_000), {}, "older than state version 3", id="older version"),
        pytest.param(Closed(2, 1_000), Closed(2, 1_000), {4: 7}, "{4: 7}", id="expired positions"),
    ],
)
def test_a_state_is_rebuilt_if_kafka_has_newer_commits_or_no_longer_the_records(
    stored: Closed, committed: Closed, expired: dict[int, int], reason: str | None
) -> None:
    found = reason_to_rebuild(stored, committed, expired, slice_length=100)
    assert found is None if reason is None else found is not None and reason in found
