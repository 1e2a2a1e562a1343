"""Folding and closing in memory agree with the plain model, for any order of alerts and any time of closing."""

from hypothesis import given, settings
from hypothesis import strategies as st

from stormfold.in_memory import InMemoryFold
from stormfold.storm import Aggregate
from stormfold.window import Rebuild, Windows
from tests.integration.model import plain, strategies
from tests.integration.model.logs import Record
from tests.integration.model.plain import Alert

EXACT = settings(deadline=None, max_examples=150, print_blob=True)
FOREVER = 2**62


def in_range(storms: dict[str, Aggregate], windows: Windows, begin: int) -> dict[str, Aggregate]:
    """Those that begin from `begin` on."""
    return {name: storm for name, storm in storms.items() if windows.bucket(storm.first_seen) >= begin}


@EXACT
@given(strategies.windows(), st.lists(strategies.alerts(st.integers(0, 400)), max_size=60), st.data())
def test_aggregates_from_c_on_are_those_of_the_whole_history(
    windows: Windows, alerts: list[Alert], data: st.DataObject
) -> None:
    """With S, those of the history from S on. Nothing before B is known, and no aggregate closes early."""
    closed = data.draw(st.integers(0, 400))
    since = data.draw(st.none() | st.integers(0, 400))
    refold = InMemoryFold(windows, Rebuild.of(closed, windows), 10_000, 1_000, since)
    order = data.draw(st.permutations(alerts))
    found: dict[str, Aggregate] = {}
    for offset, alert in enumerate(order):
        twice = [Record(offset, alert.keyed(0, offset))] * data.draw(st.integers(1, 2))
        refold.fold(0, twice)
        watermark = min((left.time for left in order[offset + 1 :]), default=FOREVER)
        if data.draw(st.booleans()):
            for storm in refold.close(watermark):
                assert storm.last_seen + windows.gap < watermark or storm.close_reason == "Slice"
                assert found.setdefault(storm.name, storm) is storm
    left = refold.count_open(closed, FOREVER)
    rest = list(refold.close(FOREVER))
    found |= {storm.name: storm for storm in rest}

    alerts = [alert for alert in alerts if since is None or alert.time >= since]
    assert found == in_range(plain.storms(alerts, windows), windows, closed)
    assert left == len(rest)
    assert refold.alerts == sum(alert.time >= Rebuild.of(closed, windows).rebuild_from for alert in alerts)


def test_fingerprints_beyond_the_limit_are_counted_but_not_listed() -> None:
    """Records that are not alerts count for nothing."""
    windows = Windows(gap=10, grace=0, slice_length=30)
    refold = InMemoryFold(windows, Rebuild.of(0, windows), 3, 1_000)
    alerts = [Alert(number.to_bytes(8, "big"), strategies.GROUPS[0], 5) for number in range(5)]
    junk = [None, b"", b"\x01", b"\xff" * 40, b"\x02junk"]
    refold.fold(0, [Record(9, value) for value in junk])
    refold.fold(0, [Record(number, alert.keyed(0, number)) for number, alert in enumerate(alerts)])
    (storm,) = refold.close(FOREVER)
    assert (storm.alert_count, storm.distinct, storm.truncated) == (5, 3, True)
