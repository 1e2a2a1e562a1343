"""Compare: what a configuration would have made of a range, beside what was made of it. Nothing is published."""

import heapq
from dataclasses import dataclass, field
from typing import NamedTuple

from stormfold.config import Config
from stormfold.in_memory import InMemoryFold
from stormfold.kafka.reader import open_reader
from stormfold.manifest import encode_manifest
from stormfold.replay.log import Span, Tell, open_range, read_stamps, storms, understood
from stormfold.replay.summary import StormSummary, published
from stormfold.settings import Settings

BIGGEST = 10
"""Storms that are named."""


class Count(NamedTuple):
    """Storms, and the alerts in them."""

    storms: int = 0
    alerts: int = 0


class Big(NamedTuple):
    """One of the biggest storms."""

    alerts: int
    resources: int
    name: str
    pattern: str
    route: str
    storm_class: str


@dataclass(slots=True)
class Tally:
    """Storms, counted."""

    counts: dict[tuple[str, str], Count] = field(default_factory=dict)
    """By route and class."""
    biggest: list[Big] = field(default_factory=list)
    """Those with the most alerts, in no order until all are counted."""

    def add(self, storm: StormSummary) -> None:
        """Counts one."""
        key = (storm.route, storm.storm_class)
        before = self.counts.get(key, Count())
        self.counts[key] = Count(before.storms + 1, before.alerts + storm.alerts)
        big = Big(storm.alerts, storm.resources, storm.name, storm.pattern, *key)
        (heapq.heappush if len(self.biggest) < BIGGEST else heapq.heappushpop)(self.biggest, big)


@dataclass(frozen=True, slots=True)
class Compared:
    """Two outcomes of one range."""

    span: Span
    """As far as it could be replayed."""
    now: Tally
    """Under the configuration."""
    then: Tally
    """As published."""
    left: int
    """Storms that under the configuration are not over yet; they are not counted."""


async def compare(settings: Settings, config: Config, wanted: Span, tell: Tell) -> Compared:
    """Understands the range's alerts anew and folds them under `config`. Raises `Retry` or `ActionRequired`."""
    async with open_reader(settings) as tail:
        of, stamps = await read_stamps(await open_range(settings, config, wanted, tail, tell))
        refold = InMemoryFold(config.windows, of.rebuild, config.max_fingerprints, config.max_resources)
        now, then = Tally(), Tally()
        async for storm in storms(of, refold, understood(of, stamps)):
            if of.holds(storm.first_seen):
                now.add(StormSummary.of(storm, encode_manifest(storm)))
        for brief in (await published(of)).values():
            if of.holds(brief.first):
                then.add(brief)
        return Compared(of.span, now, then, refold.count_open(*of.span))
