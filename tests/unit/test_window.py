"""Windows agree with a plain model without buckets: sorted alert times, split and cut."""

from collections import Counter
from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from stormfold.redis.clock import Clock
from stormfold.redis.versions import StateVersion
from stormfold.stages.state_version import closed_before
from stormfold.window import Bucket, Rebuild, Segment, Windows, first_due, segments
from tests.integration.model import strategies
from tests.integration.model.plain import Part, parts

EXACT = settings(deadline=None, max_examples=200, print_blob=True)

Times = tuple[Windows, list[int]]
History = tuple[Windows, list[tuple[int, int]], list[int]]
"""Windows, alerts as (step of arrival, time), and the watermark of each step."""


@st.composite
def cases(draw: st.DrawFn) -> Times:
    """Windows, and times whose distances are mostly around the gap, where sessions are decided."""
    windows = draw(strategies.windows())
    near = st.one_of(
        st.integers(0, windows.gap), st.integers(windows.gap - 1, windows.gap + 1), st.integers(0, 3 * windows.gap)
    )
    steps = draw(st.lists(near, min_size=1, max_size=60))
    time = draw(st.integers(0, 2 * windows.slice_length))
    times = []
    for step in steps:
        time += step
        times.append(time)
    return windows, times


def model(times: list[int], windows: Windows) -> list[Part[int]]:
    """The segments that alerts at these times must become."""
    return parts(times, windows, lambda time: time)


def buckets_of(times: list[int], windows: Windows) -> list[Bucket]:
    """The same alerts in buckets, as in Redis."""
    inside: dict[int, list[int]] = {}
    for time in times:
        inside.setdefault(windows.bucket(time), []).append(time)
    return [Bucket(start, len(held), min(held), max(held)) for start, held in inside.items()]


def seen(segment: Segment, times: list[int], windows: Windows) -> Part[int]:
    """A segment as the plain model expects it."""
    starts = {bucket.start for bucket in segment.buckets}
    held = tuple(sorted(time for time in times if windows.bucket(time) in starts))
    assert sum(bucket.alerts for bucket in segment.buckets) == len(held)
    return Part(segment.start, held, segment.reason, segment.due)


@EXACT
@given(cases())
def test_segments_agree_with_the_plain_model(case: Times) -> None:
    """Sessions, cuts, reasons and due times are those of the single alerts."""
    windows, times = case
    assert [seen(part, times, windows) for part in segments(buckets_of(times, windows), windows)] == model(
        times, windows
    )


@EXACT
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_buckets_does_not_matter(case: Times, random: Random) -> None:
    windows, times = case
    buckets = buckets_of(times, windows)
    shuffled = list(buckets)
    random.shuffle(shuffled)
    assert segments(shuffled, windows) == segments(buckets, windows)


@EXACT
@given(cases())
def test_a_segment_is_at_most_one_and_a_half_slices_long(case: Times) -> None:
    """Due times ascend and are after the last alert, and no segment starts twice."""
    windows, times = case
    parts = segments(buckets_of(times, windows), windows)
    assert all(a.due < b.due for a, b in pairwise(parts))
    assert len({part.start for part in parts}) == len(parts)
    for part in parts:
        assert part.due > part.buckets[-1].last
        assert 2 * (part.buckets[-1].last + 1 - part.start) <= 3 * windows.slice_length


def close(
    arrivals: list[tuple[int, int]], watermarks: list[int], windows: Windows, rebuild: Rebuild | None = None
) -> list[Part[int]]:
    """As closers do: alerts come at their step, what is final at the watermark is taken away and never seen again.

    `arrivals` are (step, time); one that would come before the watermark of its step comes at the last step it may.
    """
    waiting = sorted((min(step, _last_step(time, watermarks)), time) for step, time in arrivals)
    opened: list[int] = []
    result: list[Part[int]] = []
    for step, watermark in enumerate([*watermarks, 1 << 60]):
        while waiting and waiting[0][0] <= step:
            opened.append(waiting.pop(0)[1])
        for part in segments(buckets_of(opened, windows), windows, rebuild):
            if part.due <= watermark:
                result.append(seen(part, opened, windows))
                for time in result[-1].held:
                    opened.remove(time)
    assert not opened
    return result


def _last_step(time: int, watermarks: list[int]) -> int:
    """The last step at which an alert of that time may still come, by the watermark of the step before."""
    return sum(watermark <= time for watermark in watermarks)


@st.composite
def histories(draw: st.DrawFn) -> History:
    windows, times = draw(cases())
    end = times[-1] + 2 * windows.slice_length
    watermarks = sorted(draw(st.lists(st.integers(0, end), max_size=20)))
    steps = st.integers(0, len(watermarks))
    return windows, [(draw(steps), time) for time in times], watermarks


@EXACT
@given(histories())
def test_closing_step_by_step_gives_the_same_segments(history: History) -> None:
    """For any moves of the watermark and any order of alerts, the segments are those of all alerts at once."""
    windows, arrivals, watermarks = history
    assert sorted(close(arrivals, watermarks, windows)) == model([time for _, time in arrivals], windows)


@EXACT
@given(histories(), st.data())
def test_a_rebuild_gives_the_same_segments_from_c_on(history: History, data: st.DataObject) -> None:
    """Alerts before B are missing; the rest is closed step by step or at once."""
    windows, arrivals, watermarks = history
    times = [time for _, time in arrivals]
    closed = data.draw(st.integers(0, (times[-1] + 4 * windows.slice_length) // windows.gap)) * windows.gap
    rebuild = Rebuild.of(closed, windows)
    kept = [(step, time) for step, time in arrivals if time >= rebuild.rebuild_from]
    expected = [storm for storm in model(times, windows) if storm.start >= closed]
    once = [seen(p, times, windows) for p in segments(buckets_of([t for _, t in kept], windows), windows, rebuild)]
    assert [storm for storm in once if storm.start >= closed] == expected
    assert sorted(storm for storm in close(kept, watermarks, windows, rebuild) if storm.start >= closed) == expected


@EXACT
@given(histories())
def test_every_segment_before_c_is_closed(history: History) -> None:
    """C never goes back, whatever has arrived after the watermark."""
    windows, arrivals, watermarks = history
    storms = model([time for _, time in arrivals], windows)
    version, before = StateVersion(1, windows, 1, None), 0
    for step, watermark in enumerate(watermarks):
        come = {time for planned, time in arrivals if time < watermark or planned <= step}
        left = [time for storm in storms if storm.due > watermark for time in storm.held if time in come]
        first = windows.bucket(min(left)) if left else None
        closed = closed_before(version, Clock(watermark + windows.grace, len(left), first))
        assert closed is not None
        assert closed % windows.gap == 0
        assert closed >= before
        assert all(storm.due <= watermark for storm in storms if storm.start < closed)
        before = closed


@EXACT
@given(cases(), st.data())
def test_first_due_is_a_lower_bound(case: Times, data: st.DataObject) -> None:
    """It is set when a bucket becomes the earliest of its group."""
    windows, times = case
    order = data.draw(st.permutations(times))
    closed = data.draw(st.integers(0, times[-1] + windows.slice_length)) // windows.gap * windows.gap
    due, earliest = 1 << 60, 1 << 60
    for count, time in enumerate(order, 1):
        start = windows.bucket(time)
        if start < earliest:
            earliest, due = start, min(due, first_due(start, time, windows))
        buckets = buckets_of(list(order[:count]), windows)
        assert due <= segments(buckets, windows)[0].due
        assert due <= segments(buckets, windows, Rebuild.of(closed, windows))[0].due


@EXACT
@given(cases(), st.data())
def test_more_alerts_can_only_postpone_the_first_segment(case: Times, data: st.DataObject) -> None:
    windows, times = case
    some = data.draw(st.lists(st.sampled_from(times), min_size=1))
    more = [time for time in times if windows.bucket(time) >= windows.bucket(min(some))]
    assert segments(buckets_of(some, windows), windows)[0].due <= (
        segments(buckets_of(some + more, windows), windows)[0].due
    )


def test_a_session_of_ten_minutes_is_cut_on_the_clock() -> None:
    """The default windows: a session from 00:40 is cut at 05:00 and 10:00; a pause of 71 s ends it."""
    windows = Windows()
    times = [*range(40_000, 620_000, 30_000), 681_000]
    parts = segments(buckets_of(times, windows), windows)
    assert [(part.start, part.buckets[-1].last, part.due, part.reason) for part in parts] == [
        (0, 280_000, 300_000, "Slice"),
        (300_000, 580_000, 600_000, "Slice"),
        (600_000, 610_000, 670_001, "Inactivity"),
        (660_000, 681_000, 741_001, "Inactivity"),
    ]


def test_alerts_exactly_one_gap_apart_are_one_session() -> None:
    windows = Windows(gap=1000, grace=0, slice_length=10_000)
    assert len(segments(buckets_of([100, 1100], windows), windows)) == 1
    assert len(segments(buckets_of([100, 1101], windows), windows)) == 2


def test_a_cut_is_at_least_half_a_slice_after_the_beginning() -> None:
    windows = Windows(gap=100, grace=0, slice_length=600)
    assert windows.first_cut(300) == 600
    assert windows.first_cut(400) == 1200
    assert windows.first_cut(0) == 600


def test_every_alert_is_in_exactly_one_segment() -> None:
    windows = Windows(gap=5, grace=0, slice_length=10)
    times = [3, 3, 3, 9, 14, 14, 30]
    parts = segments(buckets_of(times, windows), windows)
    held = Counter(time for part in parts for time in seen(part, times, windows)[1])
    assert held == Counter(times)
