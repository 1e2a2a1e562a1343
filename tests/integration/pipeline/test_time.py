"""Clocks that are wrong, missing or out of step, and the aggregates that known timelines make."""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from stormfold.config import Config
from stormfold.storm import Aggregate
from stormfold.times import format_timestamp
from tests.support.alerts import Sent, alert, in_order, now, record
from tests.support.model import Counts, counts_of
from tests.support.pipeline import SHORT_WINDOWS, Pipeline
from tests.support.servers import until

Alerts = list[tuple[int, dict[str, Any]]]
"""Pairs of (time in ms, alert), in the order of their partition."""

MINUTE = 60_000
YEAR_2100 = 4_102_444_800_000
END_OF_TIME = 2**63 - 1
"""The largest timestamp of Kafka."""


def stamped(config: Config, alerts: Alerts) -> tuple[Alerts, Counter[str]]:
    """Stamps the alerts of one partition, none of them in the future; returns also the number of late ones by name."""
    result: Alerts = []
    late: Counter[str] = Counter()
    reached = alerts[0][0]
    for at, one in alerts:
        if at < reached - config.windows.grace:
            late[one["labels"]["alertname"]] += 1
            at = reached
        reached = max(reached, at)
        result.append((at, one))
    return result, late


def sent(*partitions: Alerts) -> list[Sent]:
    """Returns one record for each alert of each partition."""
    return [Sent(at, record(one), number) for number, alerts in enumerate(partitions) for at, one in alerts]


def late_by_name(found: Iterable[Aggregate]) -> Counter[str]:
    """Sums lateAlerts by alertname."""
    late: Counter[str] = Counter()
    for aggregate in found:
        late[aggregate.group_labels["alertname"]] += aggregate.late
    return +late


def drip(name: str, start: int, every: int, count: int) -> Alerts:
    """Returns alerts at regular intervals (ms), each about another pod."""
    return [(start + every * n, alert(name, pod=f"{name.lower()}-{n}")) for n in range(count)]


async def assert_aggregates(pipeline: Pipeline, model: dict[str, Counts], late: Counter[str]) -> None:
    """Asserts that every alert is counted once, in the model's aggregates, and that lateAlerts counts the late ones."""
    await pipeline.assert_aggregates(model)
    assert late_by_name((await pipeline.aggregates()).values()) == late


async def test_alerts_reordered_by_minutes_are_late_by_the_rule_and_counted_once(pipeline: Pipeline, past: int) -> None:
    """Alerts are reordered by up to 600 s within each partition."""
    rng = random.Random(1)
    partitions: list[Alerts] = []
    for _ in range(3):
        alerts = [
            (past - rng.randrange(60 * MINUTE), alert(f"Group{rng.randrange(12)}", pod=f"pod-{rng.randrange(50)}"))
            for _ in range(1000)
        ]
        alerts.sort(key=lambda entry: entry[0] + rng.random() * rng.choice((0, 0, 5_000, 600_000)))
        partitions.append(alerts)
    known = [stamped(Config(), alerts) for alerts in partitions]
    late = sum((counted for _, counted in known), Counter[str]())
    assert 500 < late.total() < 1000
    await pipeline.publish(sent(*partitions))

    pipeline.start(max_poll_records="300")
    await assert_aggregates(pipeline, pipeline.model(in_order(*(alerts for alerts, _ in known))), late)


async def test_partitions_hours_apart_make_nothing_late_and_close_nothing_early(pipeline: Pipeline, past: int) -> None:
    rng = random.Random(3)
    partitions = [
        in_order(
            [
                (past - hours * 60 * MINUTE + rng.randrange(40 * MINUTE), alert(f"Group{rng.randrange(5)}"))
                for _ in range(800)
            ]
        )
        for hours in (0, 2, 1)
    ]
    await pipeline.publish(sent(*partitions))

    pipeline.start(max_poll_records="200")
    await assert_aggregates(pipeline, pipeline.model(in_order(*partitions)), Counter())


async def test_the_alerts_of_a_slow_producer_are_late_and_counted_once(pipeline: Pipeline, past: int) -> None:
    """Each partition has two producers, whose clocks differ by minutes."""
    partitions: list[Alerts] = []
    for behind in (2, 7, 30):
        right = drip("Right", past, 1_000, 300)
        wrong = [(at - behind * MINUTE, one) for at, one in drip("Slow", past + 500, 1_000, 300)]
        partitions.append([entry for pair in zip(right, wrong, strict=True) for entry in pair])
    known = [stamped(Config(), alerts) for alerts in partitions]
    late = sum((counted for _, counted in known), Counter[str]())
    assert late == {"Slow": 900}
    await pipeline.publish(sent(*partitions))

    pipeline.start()
    await assert_aggregates(pipeline, pipeline.model(in_order(*(alerts for alerts, _ in known))), late)


async def test_alerts_of_1970_make_aggregates_of_1970_or_are_late_behind_newer_ones(
    pipeline: Pipeline, past: int
) -> None:
    seventies = [(0, alert("First")), *drip("Seventies", 1, 999, 30), *drip("Later", 3 * MINUTE, MINUTE, 12)]
    partitions = [seventies, [*drip("Modern", past, 1_000, 20), (0, alert("Modern")), (5, alert("Lost"))]]
    known = [stamped(Config(), alerts) for alerts in partitions]
    late = Counter({"Modern": 1, "Lost": 1})
    await pipeline.publish(sent(*partitions))

    pipeline.start()
    await assert_aggregates(pipeline, pipeline.model(in_order(*(alerts for alerts, _ in known))), late)


async def test_alerts_without_a_time_or_from_the_future_count_now(short_pipeline: Pipeline, past: int) -> None:
    """The alerts behind one from the future are late. Partitions without such alerts keep their aggregates."""
    none = [(-1, one) for _, one in drip("Timeless", 0, 0, 12)]
    future = [(at, alert("Future", pod=f"pod-{n}")) for n, at in enumerate([YEAR_2100] * 6 + [END_OF_TIME] * 6)]
    behind = drip("Behind", past, 500, 12)
    steady = [entry for n in range(5) for entry in drip("Steady", past + n * MINUTE, 500, 12)]
    begin = now()
    await short_pipeline.publish(sent(none, [*future, *behind], steady))

    short_pipeline.start()
    await short_pipeline.drained()
    end = now()

    found = await short_pipeline.aggregates()
    model = short_pipeline.model(steady)
    assert {name: counts_of(found[name]) for name in model.keys() & found.keys()} == model
    others = [aggregate for name, aggregate in found.items() if name not in model]
    alerts = Counter({aggregate.group_labels["alertname"]: aggregate.alert_count for aggregate in others})
    assert len(others) == 3 and alerts == {"Timeless": 12, "Future": 12, "Behind": 12}
    assert all(begin <= aggregate.first_seen <= aggregate.last_seen <= end for aggregate in others)
    assert late_by_name(found.values()) == {"Behind": 12}


async def test_ends_at_is_compared_with_the_event_time_and_not_with_a_wrong_clock(short_pipeline: Pipeline) -> None:
    over, ahead = (format_timestamp(now() + minutes * MINUTE) for minutes in (-60, 60))
    ended = [(-1, alert("Ended", pod=f"pod-{n}") | {"status": None, "endsAt": over}) for n in range(12)]
    firing = [(YEAR_2100, alert("Fires", pod=f"pod-{n}") | {"status": None, "endsAt": ahead}) for n in range(12)]
    await short_pipeline.publish(sent(ended, firing))

    short_pipeline.start()
    await short_pipeline.drained()

    found = {found.group_labels["alertname"]: found for found in (await short_pipeline.aggregates()).values()}
    assert {name: aggregate.resolved for name, aggregate in found.items()} == {"Ended": 12, "Fires": 0}


async def test_a_slow_clock_makes_alerts_late_and_a_fast_one_does_not(pipeline: Pipeline) -> None:
    """Live alerts of producers minutes behind and minutes ahead all count at the current time."""
    pipeline.configure("windows: {gap: 1s, grace: 3s, slice: 4s}\n")

    async def marked() -> bool:
        return len({keyed.partition for keyed in await pipeline.read(pipeline.settings.keyed_topic)}) == 3

    pipeline.start()
    await until(marked, what="every partition is known to be empty")
    begin = 0

    def current() -> Iterator[Sent]:
        # When the producer is connected: later, all of them would be late.
        nonlocal begin
        begin = now()
        right = drip("Right", begin - 19, 1, 20)
        slow, fast = drip("Slow", begin - 5 * MINUTE, 1, 20), drip("Fast", begin + 5 * MINUTE, 1, 20)
        yield from sent(right, slow, fast)

    await pipeline.publish(current())
    await pipeline.drained()
    end = now()

    found = await pipeline.aggregates()
    assert late_by_name(found.values()) == {"Slow": 20}
    by_name = {aggregate.group_labels["alertname"]: aggregate for aggregate in found.values()}
    alerts = {name: aggregate.alert_count for name, aggregate in by_name.items()}
    assert alerts == {"Right": 20, "Slow": 20, "Fast": 20}
    assert (by_name["Right"].first_seen, by_name["Right"].last_seen) == (begin - 19, begin)
    assert all(begin - 3_000 <= one.first_seen <= one.last_seen <= end for one in found.values())


def timelines(start: int) -> tuple[Alerts, dict[str, list[tuple[str, int, str]]]]:
    """Returns alerts, and (class, alertCount, closeReason) of each name's aggregates in order of time.

    `start` is a multiple of the slice, 10 s; the gap is 2 s.
    """
    pods = [{"pod": f"pod-{n}"} for n in range(20)]
    alerts: Alerts = []
    expected: dict[str, list[tuple[str, int, str]]] = {}

    def add(name: str, *aggregates: tuple[str, int, str], of: Iterable[tuple[int, dict[str, Any]]]) -> None:
        expected[name] = list(aggregates)
        alerts.extend((start + at, alert(name, **labels)) for at, labels in of)

    quiet, cut = "Inactivity", "Slice"
    # Sessions are cut at the multiples of 10 s that are at least 5 s after the first bucket of each segment.
    add("Straddles", ("Storm", 12, cut), ("Storm", 20, cut), ("Storm", 13, quiet),
         of=[(at, pods[at // 500 % 20]) for at in range(4_000, 26_500, 500)])  # fmt: skip
    add("Late start", ("Storm", 28, cut), ("Isolated", 2, quiet),
         of=[(at, pods[at // 500 % 20]) for at in range(6_000, 21_000, 500)])  # fmt: skip
    add("Last before cut", ("Isolated", 2, quiet), of=[(7_000, {}), (8_999, {})])
    add("Both sides", ("Isolated", 3, cut), ("Isolated", 1, quiet),
         of=[(4_000, {}), (6_000, {}), (8_000, {}), (10_000, {})])  # fmt: skip
    add("Drip inside", ("Isolated", 4, quiet), of=[(n * 2_000, {}) for n in range(4)])
    add("Drip outside", *[("Isolated", 1, quiet)] * 4, of=[(n * 2_001, {}) for n in range(4)])
    add("Nine alerts", ("Isolated", 9, quiet), of=[(0, {"n": str(n)}) for n in range(9)])
    add("Ten alerts", ("Storm", 10, quiet), of=[(0, {"n": str(n)}) for n in range(10)])
    add("Four pods", ("Isolated", 8, quiet), of=[(0, pods[n % 4] | {"n": str(n)}) for n in range(8)])
    add("Five pods", ("Storm", 5, quiet), of=[(0, pods[n]) for n in range(5)])
    add("One alert again and again", ("Isolated", 30, quiet), of=[(n, pods[0]) for n in range(30)])
    add("Touchy", ("Storm", 2, quiet), of=[(0, {"n": "1"}), (1, {"n": "2"})])
    add("Silenced for good", ("Silenced", 20, quiet), of=[(n, pods[n]) for n in range(20)])
    over: dict[str, Any] = {"resolved": True}
    add("Only resolved", ("Isolated", 20, quiet), of=[(n, pods[n] | over) for n in range(20)])
    add("Four fire", ("Isolated", 20, quiet), of=[(n, pods[n] | (over if n >= 4 else {})) for n in range(20)])
    add("Fired before", ("Storm", 10, quiet), of=[(n, pods[n % 5] | (over if n >= 5 else {})) for n in range(10)])
    return alerts, expected


async def test_known_timelines_make_the_aggregates_of_the_rules(pipeline: Pipeline, past: int) -> None:
    """Cuts, gaps, thresholds, resolutions and silences."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(past // 1000 + 2))
    pipeline.configure(
        f"{SHORT_WINDOWS}"
        "routes:\n"
        "  - {name: touchy, match: ['alertname=Touchy'], storm_when: {alerts: 2, resources: 2}}\n"
        "silences:\n"
        "  - {name: known, match: ['alertname=\"Silenced for good\"']}\n"
        f"  - {{name: until, match: ['alertname=\"Silenced at first\"'], ends: '{stamp}'}}\n"
    )
    alerts, expected = timelines(past)
    rng = random.Random(5)
    partitions: list[Alerts] = [[], [], []]
    for entry in in_order(alerts, drip("Silenced at first", past, 100, 40)):
        rng.choice(partitions).append(entry)
    await pipeline.publish(sent(*partitions))

    pipeline.start()
    await assert_aggregates(pipeline, pipeline.model(in_order(*partitions)), Counter())

    found = sorted((await pipeline.aggregates()).values(), key=lambda aggregate: aggregate.first_seen)
    published = defaultdict[str, list[tuple[str, int, str]]](list)
    for one in found:
        published[one.group_labels["alertname"]].append((one.aggregate_class, one.alert_count, one.close_reason))
    silenced = [("Silenced", 20, "Inactivity"), ("Storm", 20, "Inactivity")]
    assert published == expected | {"Silenced at first": silenced}
    assert [one.resolved for one in found if one.pattern.startswith("Only resolved")] == [20]
    straddling = [one for one in found if one.pattern.startswith("Straddles")]
    assert all(one.last_seen < other.first_seen for one, other in pairwise(straddling))
