"""Strange time: clocks that are wrong, missing or out of step, and the storms that known timelines make."""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from stormfold.config import Config, load
from stormfold.settings import Settings
from stormfold.storm import Aggregate
from stormfold.times import format_timestamp
from tests.support.pipeline import (
    Sent,
    Workers,
    alert,
    assert_balanced,
    batch_model,
    drained,
    essence,
    publish,
    read_topic,
    record,
    storms,
)
from tests.support.servers import until

Alerts = list[tuple[int, dict[str, Any]]]
"""(time, alert), in whatever order they come."""

MINUTE = 60_000
YEAR_2100 = 4_102_444_800_000
END_OF_TIME = 2**63 - 1
"""The last millisecond that Kafka knows."""


def stamped(config: Config, alerts: Alerts) -> tuple[Alerts, Counter[str]]:
    """What one partition's alerts are stamped with, none of them in the future, and how many are late, by name."""
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


def ordered(*partitions: Alerts) -> Alerts:
    """All of them in order of time."""
    return sorted((entry for partition in partitions for entry in partition), key=lambda entry: entry[0])


def sent(*partitions: Alerts) -> list[Sent]:
    """A record for each alert."""
    return [Sent(at, record(one), number) for number, alerts in enumerate(partitions) for at, one in alerts]


def late_by_name(found: Iterable[Aggregate]) -> Counter[str]:
    """Σ lateAlerts by alertname."""
    late: Counter[str] = Counter()
    for storm in found:
        late[storm.group_labels["alertname"]] += storm.late
    return +late


def drip(name: str, start: int, every: int, count: int) -> Alerts:
    """Alerts at regular intervals (ms), each about another pod."""
    return [(start + every * n, alert(name, pod=f"{name.lower()}-{n}")) for n in range(count)]


async def proven(settings: Settings, config: Path | None, model: dict[str, Any], late: Counter[str]) -> None:
    """Everything is counted once, in the model's storms; lateAlerts says which came late."""
    books = await drained(settings, config)
    assert_balanced(books)
    found = await storms(settings)
    assert {name: essence(storm) for name, storm in found.items()} == model
    assert late_by_name(found.values()) == late


async def test_reordered(topics: Settings, workers: Workers, past: int) -> None:
    """Reordered by up to 600 s within each partition: in time or late by the rule, and each counted once."""
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
    await publish(topics, sent(*partitions))

    workers.start(max_poll_records="300")
    await proven(topics, None, batch_model(Config(), ordered(*(alerts for alerts, _ in known))), late)


async def test_skewed_partitions(topics: Settings, workers: Workers, past: int) -> None:
    """Partitions an hour apart: the one ahead waits, nobody's storms are closed early, nothing is late."""
    rng = random.Random(3)
    partitions = [
        ordered(
            [
                (past - hours * 60 * MINUTE + rng.randrange(40 * MINUTE), alert(f"Group{rng.randrange(5)}"))
                for _ in range(800)
            ]
        )
        for hours in (0, 2, 1)
    ]
    await publish(topics, sent(*partitions))

    workers.start(max_poll_records="200")
    await proven(topics, None, batch_model(Config(), ordered(*partitions)), Counter())


async def test_producers_minutes_apart(topics: Settings, workers: Workers, past: int) -> None:
    """Two producers in each partition, whose clocks differ by minutes: the slow one's alerts count as late, once."""
    partitions: list[Alerts] = []
    for behind in (2, 7, 30):
        right = drip("Right", past, 1_000, 300)
        wrong = [(at - behind * MINUTE, one) for at, one in drip("Slow", past + 500, 1_000, 300)]
        partitions.append([entry for pair in zip(right, wrong, strict=True) for entry in pair])
    known = [stamped(Config(), alerts) for alerts in partitions]
    late = sum((counted for _, counted in known), Counter[str]())
    assert late == {"Slow": 900}
    await publish(topics, sent(*partitions))

    workers.start()
    await proven(topics, None, batch_model(Config(), ordered(*(alerts for alerts, _ in known))), late)


async def test_seventies(topics: Settings, workers: Workers, past: int) -> None:
    """Alerts of 1970 have storms of 1970; behind newer ones they are late, and nobody else's storms change."""
    seventies = [(0, alert("First")), *drip("Seventies", 1, 999, 30), *drip("Later", 3 * MINUTE, MINUTE, 12)]
    partitions = [seventies, [*drip("Modern", past, 1_000, 20), (0, alert("Modern")), (5, alert("Lost"))]]
    known = [stamped(Config(), alerts) for alerts in partitions]
    late = Counter({"Modern": 1, "Lost": 1})
    await publish(topics, sent(*partitions))

    workers.start()
    await proven(topics, None, batch_model(Config(), ordered(*(alerts for alerts, _ in known))), late)


async def test_no_time_and_future(topics: Settings, config_file: Path, tmp_path: Path, past: int) -> None:
    """Without a timestamp, or with one of the future, an alert counts now; what is right behind it is late.

    Partitions without such alerts keep their storms.
    """
    none = [(-1, one) for _, one in drip("Timeless", 0, 0, 12)]
    future = [(at, alert("Future", pod=f"pod-{n}")) for n, at in enumerate([YEAR_2100] * 6 + [END_OF_TIME] * 6)]
    behind = drip("Behind", past, 500, 12)
    steady = [entry for n in range(5) for entry in drip("Steady", past + n * MINUTE, 500, 12)]
    begin = time.time_ns() // 1_000_000
    await publish(topics, sent(none, [*future, *behind], steady))

    with Workers(topics, tmp_path, config_file) as workers:
        workers.start()
        books = await drained(topics, config_file)
    end = time.time_ns() // 1_000_000

    assert_balanced(books)
    found = await storms(topics)
    model = batch_model(load(config_file), steady)
    assert {name: essence(found[name]) for name in model.keys() & found.keys()} == model
    others = [storm for name, storm in found.items() if name not in model]
    counts = Counter({storm.group_labels["alertname"]: storm.alert_count for storm in others})
    assert len(others) == 3 and counts == {"Timeless": 12, "Future": 12, "Behind": 12}
    assert all(begin <= storm.first_seen <= storm.last_seen <= end for storm in others)
    assert late_by_name(found.values()) == {"Behind": 12}


async def test_ends_by_a_wrong_clock(topics: Settings, config_file: Path, tmp_path: Path) -> None:
    """Whether `endsAt` is over is judged by the time at which the alert counts, not by a clock that is wrong."""
    now = time.time_ns() // 1_000_000
    over, ahead = (format_timestamp(now + minutes * MINUTE) for minutes in (-60, 60))
    ended = [(-1, alert("Ended", pod=f"pod-{n}") | {"status": None, "endsAt": over}) for n in range(12)]
    firing = [(YEAR_2100, alert("Fires", pod=f"pod-{n}") | {"status": None, "endsAt": ahead}) for n in range(12)]
    await publish(topics, sent(ended, firing))

    with Workers(topics, tmp_path, config_file) as workers:
        workers.start()
        books = await drained(topics, config_file)

    assert_balanced(books)
    found = {storm.group_labels["alertname"]: storm for storm in (await storms(topics)).values()}
    assert {name: storm.resolved for name, storm in found.items()} == {"Ended": 12, "Fires": 0}


async def test_live_clocks(topics: Settings, tmp_path: Path) -> None:
    """While time goes on, a producer minutes behind is late, one minutes ahead is not, and both count now."""
    config_file = tmp_path / "stormfold.yaml"
    config_file.write_text("windows: {gap: 1s, grace: 3s, slice: 4s}\n")

    async def marked() -> bool:
        return len({keyed.partition for keyed in await read_topic(topics, topics.keyed_topic)}) == 3

    with Workers(topics, tmp_path, config_file) as workers:
        workers.start()
        await until(marked, what="every partition is known to be empty")
        now = time.time_ns() // 1_000_000
        right = drip("Right", now - 19, 1, 20)
        slow, fast = drip("Slow", now - 5 * MINUTE, 1, 20), drip("Fast", now + 5 * MINUTE, 1, 20)
        await publish(topics, sent(right, slow, fast))
        books = await drained(topics, config_file)
    end = time.time_ns() // 1_000_000

    assert_balanced(books)
    found = await storms(topics)
    assert late_by_name(found.values()) == {"Slow": 20}
    by_name = {storm.group_labels["alertname"]: storm for storm in found.values()}
    assert {name: storm.alert_count for name, storm in by_name.items()} == {"Right": 20, "Slow": 20, "Fast": 20}
    assert (by_name["Right"].first_seen, by_name["Right"].last_seen) == (now - 19, now)
    assert all(now - 3_000 <= storm.first_seen <= storm.last_seen <= end for storm in found.values())


def timelines(start: int) -> tuple[Alerts, dict[str, list[tuple[str, int, str]]]]:
    """Alerts by name, and (class, alertCount, closeReason) of the storms that come of them, in order of time.

    `start` is a multiple of the slice, 10 s; the gap is 2 s.
    """
    pods = [{"pod": f"pod-{n}"} for n in range(20)]
    alerts: Alerts = []
    expected: dict[str, list[tuple[str, int, str]]] = {}

    def tell(name: str, *storms: tuple[str, int, str], of: Iterable[tuple[int, dict[str, Any]]]) -> None:
        expected[name] = list(storms)
        alerts.extend((start + at, alert(name, **labels)) for at, labels in of)

    quiet, cut = "Inactivity", "Slice"
    # Cut at the multiples of 10 s that are at least 5 s after the first bucket of each part.
    tell("Straddles", ("Storm", 12, cut), ("Storm", 20, cut), ("Storm", 13, quiet),
         of=[(at, pods[at // 500 % 20]) for at in range(4_000, 26_500, 500)])  # fmt: skip
    tell("Late start", ("Storm", 28, cut), ("Isolated", 2, quiet),
         of=[(at, pods[at // 500 % 20]) for at in range(6_000, 21_000, 500)])  # fmt: skip
    tell("Last before cut", ("Isolated", 2, quiet), of=[(7_000, {}), (8_999, {})])
    tell("Both sides", ("Isolated", 3, cut), ("Isolated", 1, quiet),
         of=[(4_000, {}), (6_000, {}), (8_000, {}), (10_000, {})])  # fmt: skip
    tell("Drip inside", ("Isolated", 4, quiet), of=[(n * 2_000, {}) for n in range(4)])
    tell("Drip outside", *[("Isolated", 1, quiet)] * 4, of=[(n * 2_001, {}) for n in range(4)])
    tell("Nine alerts", ("Isolated", 9, quiet), of=[(0, {"n": str(n)}) for n in range(9)])
    tell("Ten alerts", ("Storm", 10, quiet), of=[(0, {"n": str(n)}) for n in range(10)])
    tell("Four pods", ("Isolated", 8, quiet), of=[(0, pods[n % 4] | {"n": str(n)}) for n in range(8)])
    tell("Five pods", ("Storm", 5, quiet), of=[(0, pods[n]) for n in range(5)])
    tell("One alert again and again", ("Isolated", 30, quiet), of=[(n, pods[0]) for n in range(30)])
    tell("Touchy", ("Storm", 2, quiet), of=[(0, {"n": "1"}), (1, {"n": "2"})])
    tell("Silenced for good", ("Silenced", 20, quiet), of=[(n, pods[n]) for n in range(20)])
    over: dict[str, Any] = {"resolved": True}
    tell("Only resolved", ("Isolated", 20, quiet), of=[(n, pods[n] | over) for n in range(20)])
    tell("Four fire", ("Isolated", 20, quiet), of=[(n, pods[n] | (over if n >= 4 else {})) for n in range(20)])
    tell("Fired before", ("Storm", 10, quiet), of=[(n, pods[n % 5] | (over if n >= 5 else {})) for n in range(10)])
    return alerts, expected


async def test_timelines(topics: Settings, tmp_path: Path, past: int) -> None:
    """Known timelines make the storms that the rules say: cuts, gaps, thresholds, resolutions, silences."""
    config_file = tmp_path / "stormfold.yaml"
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(past // 1000 + 2))
    config_file.write_text(
        "windows: {gap: 2s, grace: 1s, slice: 10s}\n"
        "routes:\n"
        "  - {name: touchy, match: ['alertname=Touchy'], storm_when: {alerts: 2, resources: 2}}\n"
        "silences:\n"
        "  - {name: known, match: ['alertname=\"Silenced for good\"']}\n"
        f"  - {{name: until, match: ['alertname=\"Silenced at first\"'], ends: '{stamp}'}}\n"
    )
    alerts, expected = timelines(past)
    rng = random.Random(5)
    partitions: list[Alerts] = [[], [], []]
    for entry in ordered(alerts, drip("Silenced at first", past, 100, 40)):
        rng.choice(partitions).append(entry)
    await publish(topics, sent(*partitions))

    with Workers(topics, tmp_path, config_file) as workers:
        workers.start()
        await proven(topics, config_file, batch_model(load(config_file), ordered(*partitions)), Counter())

    found = sorted((await storms(topics)).values(), key=lambda storm: storm.first_seen)
    told = defaultdict[str, list[tuple[str, int, str]]](list)
    for storm in found:
        told[storm.group_labels["alertname"]].append((storm.aggregate_class, storm.alert_count, storm.close_reason))
    silenced = [("Silenced", 20, "Inactivity"), ("Storm", 20, "Inactivity")]
    assert told == expected | {"Silenced at first": silenced}
    assert [storm.resolved for storm in found if storm.pattern.startswith("Only resolved")] == [20]
    straddling = [storm for storm in found if storm.pattern.startswith("Straddles")]
    assert all(one.last_seen < other.first_seen for one, other in pairwise(straddling))
