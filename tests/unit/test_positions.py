"""Whether a stored position still fits its partition."""

import pytest

from stormfold.positions import (
    Position,
    RecordTime,
    Verdict,
    behind_commits,
    check_position,
    expired_positions,
    lost_records,
    offset_to_verify,
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
