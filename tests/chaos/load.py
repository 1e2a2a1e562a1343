"""An endless load of alerts: every sort of incident that windows, keys and source positions could get wrong.

Pure: the same seed, rate, windows and partitions give the same records, in order of time.
"""

import heapq
from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from typing import Any, NamedTuple

import msgspec

from stormfold.window import Windows
from tests.support.alerts import alert, record

Alert = dict[str, Any]


class Planned(NamedTuple):
    """One record to come."""

    at: int
    """Milliseconds after the beginning of the load."""
    partition: int
    value: bytes | None
    alerts: tuple[Alert, ...]
    """Its alerts; empty if the record cannot be parsed."""


class Step(NamedTuple):
    """One record of an incident, at milliseconds after the incident's beginning."""

    at: float
    alerts: tuple[Alert, ...]
    value: bytes | None


Incident = Callable[[Random, int, Windows], Iterator[Step]]
"""Yields the records of an incident, whose number is part of its group names."""


def plain(at: float, *alerts: Alert) -> Step:
    """Returns a record of one alert, or of a list of several."""
    return Step(at, alerts, record(*alerts))


def webhook(at: float, *alerts: Alert) -> Step:
    """Returns a record of one notification of Alertmanager's webhook."""
    return Step(at, alerts, msgspec.json.encode({"version": "4", "status": "firing", "alerts": alerts}))


def background(rng: Random, _number: int, _windows: Windows) -> Iterator[Step]:
    """Background noise: few groups often, many rarely (Zipf), one in eight alerts resolved."""
    for _ in range(600):
        group = min(int(rng.paretovariate(0.8)), 150)
        one = alert(f"Background{group}", pod=f"pod-{rng.randrange(30)}", resolved=rng.random() < 0.12)
        yield plain(rng.uniform(0, 2_000), one)


def flood(rng: Random, number: int, _windows: Windows) -> Iterator[Step]:
    """A node dies: hundreds of alerts within a second or three."""
    seconds = rng.uniform(1.0, 3.0)
    for _ in range(rng.randint(300, 1_500)):
        yield plain(rng.uniform(0, seconds * 1000), alert(f"Flood{number}", pod=f"pod-{rng.randrange(400)}"))


def long_flood(rng: Random, number: int, windows: Windows) -> Iterator[Step]:
    """A flood over several slices, which is cut on the clock."""
    length = rng.uniform(2.0, 3.5) * windows.slice_length
    for _ in range(700):
        yield plain(rng.uniform(0, length), alert(f"LongFlood{number}", pod=f"pod-{rng.randrange(60)}"))


def drip_inside(_rng: Random, number: int, windows: Windows) -> Iterator[Step]:
    """Alerts exactly one gap apart: one session, until it is cut on the clock."""
    for step in range(8):
        yield plain(step * windows.gap, alert(f"DripInside{number}", pod=f"pod-{step}"))


def drip_outside(_rng: Random, number: int, windows: Windows) -> Iterator[Step]:
    """Alerts one millisecond more than a gap apart: each is a session of its own."""
    for step in range(6):
        yield plain(step * (windows.gap + 1), alert(f"DripOutside{number}", pod=f"pod-{step}"))


def fan_out(rng: Random, number: int, _windows: Windows) -> Iterator[Step]:
    """One cause, thousands of resources, each named once."""
    for pod in range(rng.randint(1_500, 3_000)):
        yield plain(rng.uniform(0, 2_500), alert(f"FanOut{number}", pod=f"pod-{pod}"))


def resent(rng: Random, number: int, _windows: Windows) -> Iterator[Step]:
    """Alertmanager repeats the same group several times, the last time resolved."""
    pods = [f"pod-{rng.randrange(1_000)}" for _ in range(rng.randint(5, 40))]
    for turn in range(6):
        yield webhook(turn * 700, *(alert(f"Resent{number}", pod=pod, resolved=turn == 5) for pod in pods))


def flapping(rng: Random, number: int, _windows: Windows) -> Iterator[Step]:
    """The same few alerts fire and resolve, some of them within the same millisecond."""
    for turn in range(40):
        for pod in range(8):
            one = alert(f"Flapping{number}", pod=f"pod-{pod}", resolved=bool(turn % 2))
            yield plain(turn * 150 + rng.choice((0, 0, 75)), one)


def crowd(rng: Random, number: int, _windows: Windows) -> Iterator[Step]:
    """Many alerts of many groups in one record."""
    for _ in range(5):
        alerts = (alert(f"Crowd{number}-{rng.randrange(6)}", pod=f"pod-{rng.randrange(50)}") for _ in range(100))
        yield plain(rng.uniform(0, 1_500), *alerts)


def garbage(rng: Random, _number: int, _windows: Windows) -> Iterator[Step]:
    """Records that cannot be parsed."""
    for value in (b"", None, b"\xff\xfe", b'{"labels": ', b"[]", b"[" * 400, b'{"labels": {"alertname": 7}}', b"null"):
        yield Step(rng.uniform(0, 2_000), (), value)


INCIDENTS: tuple[Incident, ...] = (
    background, flood, background, drip_inside, background, resent, background, fan_out, background, flapping,
    background, drip_outside, background, crowd, background, long_flood, background, garbage,
)  # fmt: skip
"""Each round has each of them as often as it is listed here, in an order that is drawn."""


def load(seed: int, rate: int, windows: Windows, partitions: int) -> Iterator[Planned]:
    """Yields records in order of time without end; on average `rate` alerts a second."""
    rng = Random(f"load {seed}")
    begin = 0.0
    waiting: list[tuple[float, int, Planned]] = []
    numbers = count()
    order = count()
    while True:
        for incident in rng.sample(INCIDENTS, len(INCIDENTS)):
            steps = list(incident(rng, next(numbers), windows))
            for at, alerts, value in steps:
                planned = Planned(int(begin + at), rng.randrange(partitions), value, alerts)
                heapq.heappush(waiting, (begin + at, next(order), planned))
            begin += sum(max(1, len(one.alerts)) for one in steps) * 1000 / rate
            while waiting and waiting[0][0] < begin:
                yield heapq.heappop(waiting)[2]
