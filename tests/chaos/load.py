"""Alerts as a bad day sends them, without end: every sort of incident that windows, keys and origins can trip over.

Pure: the same seed, rate, windows and partitions give the same records, in order of time.
"""

import heapq
from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from typing import Any, NamedTuple

import msgspec

from stormfold.window import Windows
from tests.support.pipeline import alert, record

Alert = dict[str, Any]


class Planned(NamedTuple):
    """One record to come."""

    at: int
    """Milliseconds after the beginning."""
    partition: int
    value: bytes | None
    alerts: tuple[Alert, ...]
    """What is in it; nothing: nobody can understand it."""


class Told(NamedTuple):
    """One record of a story, at milliseconds after the story's beginning."""

    at: float
    alerts: tuple[Alert, ...]
    value: bytes | None


Story = Callable[[Random, int, Windows], Iterator[Told]]
"""Tells incident number so-and-so."""


def plain(at: float, *alerts: Alert) -> Told:
    """One alert as a record, or several as a list."""
    return Told(at, alerts, record(*alerts))


def webhook(at: float, *alerts: Alert) -> Told:
    """A group, as Alertmanager's webhook sends it."""
    return Told(at, alerts, msgspec.json.encode({"version": "4", "status": "firing", "alerts": alerts}))


def background(rng: Random, _number: int, _windows: Windows) -> Iterator[Told]:
    """What is always wrong somewhere: few groups often, many seldom (Zipf), one in eight a resolution."""
    for _ in range(600):
        group = min(int(rng.paretovariate(0.8)), 150)
        one = alert(f"Background{group}", pod=f"pod-{rng.randrange(30)}", resolved=rng.random() < 0.12)
        yield plain(rng.uniform(0, 2_000), one)


def flood(rng: Random, number: int, _windows: Windows) -> Iterator[Told]:
    """A node dies: hundreds of alerts within a second or three."""
    seconds = rng.uniform(1.0, 3.0)
    for _ in range(rng.randint(300, 1_500)):
        yield plain(rng.uniform(0, seconds * 1000), alert(f"Flood{number}", pod=f"pod-{rng.randrange(400)}"))


def long_flood(rng: Random, number: int, windows: Windows) -> Iterator[Told]:
    """One that goes on over several slices, so that it is cut on the clock."""
    length = rng.uniform(2.0, 3.5) * windows.slice_length
    for _ in range(700):
        yield plain(rng.uniform(0, length), alert(f"LongFlood{number}", pod=f"pod-{rng.randrange(60)}"))


def drip_inside(_rng: Random, number: int, windows: Windows) -> Iterator[Told]:
    """Alerts exactly one gap apart: one storm, until the clock cuts it."""
    for step in range(8):
        yield plain(step * windows.gap, alert(f"DripInside{number}", pod=f"pod-{step}"))


def drip_outside(_rng: Random, number: int, windows: Windows) -> Iterator[Told]:
    """Alerts one millisecond more than a gap apart: each is alone."""
    for step in range(6):
        yield plain(step * (windows.gap + 1), alert(f"DripOutside{number}", pod=f"pod-{step}"))


def fan_out(rng: Random, number: int, _windows: Windows) -> Iterator[Told]:
    """One cause, thousands of resources, each named once."""
    for pod in range(rng.randint(1_500, 3_000)):
        yield plain(rng.uniform(0, 2_500), alert(f"FanOut{number}", pod=f"pod-{pod}"))


def resent(rng: Random, number: int, _windows: Windows) -> Iterator[Told]:
    """Alertmanager sends the same group again and again, and in the end that it is resolved."""
    pods = [f"pod-{rng.randrange(1_000)}" for _ in range(rng.randint(5, 40))]
    for turn in range(6):
        yield webhook(turn * 700, *(alert(f"Resent{number}", pod=pod, resolved=turn == 5) for pod in pods))


def flapping(rng: Random, number: int, _windows: Windows) -> Iterator[Told]:
    """The same few alerts fire and resolve, some of them within the same millisecond."""
    for turn in range(40):
        for pod in range(8):
            one = alert(f"Flapping{number}", pod=f"pod-{pod}", resolved=bool(turn % 2))
            yield plain(turn * 150 + rng.choice((0, 0, 75)), one)


def crowd(rng: Random, number: int, _windows: Windows) -> Iterator[Told]:
    """Many alerts of many groups in one record."""
    for _ in range(5):
        alerts = (alert(f"Crowd{number}-{rng.randrange(6)}", pod=f"pod-{rng.randrange(50)}") for _ in range(100))
        yield plain(rng.uniform(0, 1_500), *alerts)


def garbage(rng: Random, _number: int, _windows: Windows) -> Iterator[Told]:
    """What nobody can understand."""
    for value in (b"", None, b"\xff\xfe", b'{"labels": ', b"[]", b"[" * 400, b'{"labels": {"alertname": 7}}', b"null"):
        yield Told(rng.uniform(0, 2_000), (), value)


STORIES: tuple[Story, ...] = (
    background, flood, background, drip_inside, background, resent, background, fan_out, background, flapping,
    background, drip_outside, background, crowd, background, long_flood, background, garbage,
)  # fmt: skip
"""Each is told as often as it stands here; the order is drawn."""


def load(seed: int, rate: int, windows: Windows, partitions: int) -> Iterator[Planned]:
    """Records in order of time, for ever; on average `rate` alerts a second."""
    rng = Random(f"load {seed}")
    begin = 0.0
    told: list[tuple[float, int, Planned]] = []
    numbers = count()
    order = count()
    while True:
        for story in rng.sample(STORIES, len(STORIES)):
            told_now = list(story(rng, next(numbers), windows))
            for at, alerts, value in told_now:
                planned = Planned(int(begin + at), rng.randrange(partitions), value, alerts)
                heapq.heappush(told, (begin + at, next(order), planned))
            begin += sum(max(1, len(one.alerts)) for one in told_now) * 1000 / rate
            while told and told[0][0] < begin:
                yield heapq.heappop(told)[2]
