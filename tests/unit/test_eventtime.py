"""Event time at intake, and the horizon."""

from hypothesis import given, settings
from hypothesis import strategies as st

from stormfold.eventtime import Horizon, Progress

EXACT = settings(deadline=None, max_examples=300, print_blob=True)

LIMIT = 900_000
MARK = 1_000
"""Interval of the marks of a running intake (ms)."""

readings = st.lists(
    st.one_of(
        st.tuples(st.just("record"), st.integers(-1, 2_000)),
        st.tuples(st.just("end"), st.integers(0, 2_000)),
    ),
    max_size=50,
)


@EXACT
@given(readings, st.integers(0, 100), st.lists(st.integers(0, 100), min_size=50, max_size=50))
def test_progress_never_goes_back_and_stamps_stay_within_the_grace(
    read: list[tuple[str, int]], grace: int, steps: list[int]
) -> None:
    progress, now = Progress(), 500
    for (what, time), step in zip(read, steps, strict=False):
        now += step
        before = progress.reached
        if what == "end":
            progress.advance_to(min(time, now))
        else:
            stamp, late = next(progress.stamps([time], now, grace))
            wanted = now if time < 0 else min(time, now)
            assert late == (before is not None and wanted < before - grace)
            assert stamp == (before if late else wanted)
            assert before is None or stamp >= before - grace
            assert progress.reached is not None
            assert stamp <= progress.reached
        if before is not None:
            assert progress.reached is not None
            assert progress.reached >= before


@EXACT
@given(st.lists(st.integers(0, 1_000), min_size=1, max_size=40), st.data())
def test_after_a_restart_no_stamp_is_before_an_earlier_mark(times: list[int], data: st.DataObject) -> None:
    grace = 10
    first = Progress()
    for _ in first.stamps(times, 10_000, grace):
        pass
    second = Progress(first.reached)
    assert first.reached is not None
    for time in data.draw(st.lists(st.integers(0, 1_000))):
        assert next(second.stamps([time], 10_000, grace))[0] >= first.reached - grace


def test_a_record_beyond_the_grace_is_late_and_none_is_in_the_future() -> None:
    """The poll of an idle partition advances the progress."""
    progress = Progress()
    assert next(progress.stamps([1_000], 5_000, 10)) == (1_000, False)
    assert next(progress.stamps([990], 5_000, 10)) == (990, False)
    assert next(progress.stamps([989], 5_000, 10)) == (1_000, True)
    assert next(progress.stamps([9_000], 5_000, 10)) == (5_000, False)
    assert next(progress.stamps([-1], 5_001, 10)) == (5_001, False)
    progress.advance_to(6_000)
    assert next(progress.stamps([5_500], 7_000, 10)) == (6_000, True)
    progress.advance_to(5_000)
    assert progress.reached == 6_000


AHEAD = 300_000


def test_the_horizon_is_the_minimum_of_all_pairs() -> None:
    horizon = Horizon(LIMIT, AHEAD)
    marks = {(0, 0): 30, (0, 1): 20, (1, 0): 40, (1, 1): 25}
    assert horizon.observe(marks, 2, 2, now=0) == 20
    assert horizon.idle == frozenset()


def test_marks_of_unknown_partitions_do_not_count() -> None:
    assert Horizon(LIMIT, AHEAD).observe({(0, 0): 30, (0, 1): 5, (3, 0): 5}, 1, 1, now=0) == 30


def test_without_partitions_or_marks_there_is_no_horizon() -> None:
    assert Horizon(LIMIT, AHEAD).observe({}, 0, 0, now=0) is None
    assert Horizon(LIMIT, AHEAD).observe({}, 2, 2, now=0) is None


def test_a_pair_without_a_mark_holds_the_horizon_until_it_is_idle() -> None:
    horizon = Horizon(LIMIT, AHEAD)
    for now in range(0, LIMIT + 1, MARK):
        assert horizon.observe({(0, 0): now}, 1, 2, now=now) is None
    assert horizon.observe({(0, 0): LIMIT + MARK}, 1, 2, now=LIMIT + MARK) == LIMIT + MARK
    assert horizon.idle == {(0, 1)}
    assert horizon.observe({(0, 0): LIMIT + MARK, (0, 1): 7}, 1, 2, now=LIMIT + 2 * MARK) == 7
    assert horizon.idle == frozenset()


def test_an_idle_pair_is_left_out_until_it_moves() -> None:
    horizon = Horizon(LIMIT, AHEAD)
    for now in range(0, LIMIT + 1, MARK):
        assert horizon.observe({(0, 0): now, (0, 1): 5}, 1, 2, now=now) == min(now, 5)
    now = LIMIT + MARK
    assert horizon.observe({(0, 0): now, (0, 1): 5}, 1, 2, now=now) == now
    assert horizon.idle == {(0, 1)}
    assert horizon.observe({(0, 0): now, (0, 1): 6}, 1, 2, now=now + MARK) == 6
    assert horizon.idle == frozenset()


def test_no_pair_is_idle_while_all_are_silent() -> None:
    horizon = Horizon(LIMIT, AHEAD)
    marks = {(0, 0): 50, (0, 1): 5}
    for now in range(0, 5 * LIMIT, 10 * MARK):
        assert horizon.observe(marks, 1, 2, now=now) == 5
        assert horizon.idle == frozenset()


def test_after_a_silence_of_all_pairs_each_has_the_whole_timeout() -> None:
    horizon = Horizon(LIMIT, AHEAD)
    for now in range(0, 3 * LIMIT, 10 * MARK):
        assert horizon.observe({(0, 0): 50, (0, 1): 5}, 1, 2, now=now) == 5
    back = 3 * LIMIT
    for now in range(back, back + LIMIT, MARK):
        assert horizon.observe({(0, 0): now, (0, 1): 5}, 1, 2, now=now) == 5
        assert horizon.idle == frozenset()
    now = back + LIMIT + 2 * MARK
    assert horizon.observe({(0, 0): now, (0, 1): 5}, 1, 2, now=now) == now
    assert horizon.idle == {(0, 1)}


def test_silence_does_not_count_towards_the_idle_timeout() -> None:
    """Ten minutes alone, half an hour of silence, then the rest of the timeout alone."""
    horizon = Horizon(LIMIT, AHEAD)
    minute = 60_000
    for now in range(0, 10 * minute, MARK):
        assert horizon.observe({(0, 0): now, (0, 1): 5}, 1, 2, now=now) == min(now, 5)
    for now in range(10 * minute, 40 * minute, MARK):
        assert horizon.observe({(0, 0): 10 * minute, (0, 1): 5}, 1, 2, now=now) == 5
    for now in range(40 * minute, 44 * minute, MARK):
        assert horizon.observe({(0, 0): now, (0, 1): 5}, 1, 2, now=now) == 5
    for now in range(44 * minute, 46 * minute, MARK):
        horizon.observe({(0, 0): now, (0, 1): 5}, 1, 2, now=now)
    assert horizon.observe({(0, 0): 46 * minute, (0, 1): 5}, 1, 2, now=46 * minute) == 46 * minute


@EXACT
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 50), st.integers(0, 5_000)), max_size=60)
)
def test_the_horizon_never_goes_back_while_no_pair_is_idle(moves: list[tuple[int, int, int, int]]) -> None:
    horizon = Horizon(LIMIT, AHEAD)
    marks: dict[tuple[int, int], int] = {}
    now, last = 0, -1
    for keyed, alerts, rise, step in moves:
        now += step
        marks[keyed, alerts] = marks.get((keyed, alerts), 0) + rise
        seen = horizon.observe(marks, 3, 3, now=now)
        assert (seen is None) == (len(marks) < 9)
        if seen is not None:
            assert seen == min(marks.values())
            assert seen >= last
            last = seen


def test_a_pair_that_intake_pauses_is_not_idle() -> None:
    """Intake pauses pairs that are more than a slice ahead; the pair behind them still becomes idle."""
    horizon = Horizon(LIMIT, AHEAD)
    for beat in range(LIMIT // MARK + 1):
        marks = {(0, 0): min(beat * MARK, AHEAD + MARK), (0, 1): 5}
        assert horizon.observe(marks, 1, 2, beat * MARK, beat) == min(beat * MARK, 5)
    now = LIMIT + MARK
    assert horizon.observe({(0, 0): AHEAD + MARK, (0, 1): 5}, 1, 2, now, -1) == AHEAD + MARK
    assert horizon.idle == {(0, 1)}


def test_pairs_become_idle_one_after_the_other() -> None:
    """An idle pair does not make others look far ahead."""
    horizon = Horizon(LIMIT, AHEAD)
    end, stops = 4 * LIMIT, 2 * LIMIT
    for beat, now in enumerate(range(0, end, MARK)):
        horizon.observe({(0, 0): now, (0, 1): 5, (0, 2): min(now, stops)}, 1, 3, now, beat)
    assert horizon.idle == {(0, 1), (0, 2)}
