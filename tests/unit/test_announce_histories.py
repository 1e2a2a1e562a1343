"""Random histories of workers that announce: rebuilds, lost Redis, idle partitions, holders that change or freeze.

Each step is atomic, everything else interleaves. Windows, segments, correlation and notices are the product's; Kafka,
Redis and Alertmanager are lists.
"""

from collections import defaultdict
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stormfold.announce.notice import Firing, Look, Notices
from stormfold.correlation import Correlation, RecordPlace
from stormfold.incident_part import Part
from stormfold.scope import ScopeKey
from stormfold.storm import Aggregate
from stormfold.window import Bucket, Rebuild, Segment, Windows, segments
from tests.support.incidents import Scoped, aggregate, plain

WINDOWS = Windows(gap=4, grace=2, slice_length=12)
INCIDENT_GAP, MAX_LENGTH = 9, 30
NEED = 2
"""Kinds of qualifying alerts that make a storm."""
MUTATIONS = ("before the watermark", "over at the watermark", "Redis away")
"""Wrong rules, which the histories must find."""

Group = tuple[str, str]
"""Cluster and name."""
Held = dict[int, tuple[int, int, int, frozenset[int]]]
"""Bucket start → first, last, alerts, qualifying kinds."""


class World:
    """The log of stamped alerts, Redis, `storms`, fold's commit, and Alertmanager."""

    def __init__(self, seed: int, mutation: str = "") -> None:
        self.rng, self.mutation = Random(seed), mutation
        self.now = 1000
        self.names = self.rng.choice(("x", "xy", "xyz"))
        self.log: list[tuple[int, Group, int | None]] = []
        """Time, group, qualifying kind."""
        self.progress = [1000, 1000]
        self.folded = 0
        self.marks: list[int | None] = [None, None]
        self.rebuild: Rebuild | None = None
        self.version = 1
        self.groups: dict[Group, Held] = {}
        self.storms: list[Scoped] = []
        self.published: set[str] = set()
        self.closed_before = 0
        """Of fold's newest commit."""
        self.away = False
        self.manager: dict[ScopeKey, Firing] = {}
        """What fires in Alertmanager."""
        self.events: list[tuple[str, ScopeKey, frozenset[str]]] = []
        """Posts of the holder with the lease: kind, scope, and the storms that make the incident open."""
        self.announced: set[str] = set()
        """Storms for which an announcement began."""
        self.holders: list[Iterator[None]] = []
        self.lease = 0
        self.change()

    @property
    def horizon(self) -> int | None:
        return None if None in self.marks else min(mark for mark in self.marks if mark is not None)

    def produce(self) -> None:
        """Alerts arrive at an alerts partition; intake stamps them."""
        partition = self.rng.randrange(2)
        for _ in range(self.rng.randrange(1, 5)):
            time = max(self.now - self.rng.randrange(4), self.progress[partition] - WINDOWS.grace)
            group = self.rng.choice("ab"), self.rng.choice(self.names)
            self.log.append((time, group, self.rng.choice((0, 1, 2, None))))
            self.progress[partition] = max(self.progress[partition], time)
        self.now += self.rng.randrange(3)

    def wait(self) -> None:
        self.now += self.rng.randrange(1, 3 * WINDOWS.gap)

    def fold(self) -> None:
        """Folds some of the log, then perhaps the marks behind it."""
        until = min(len(self.log), self.folded + self.rng.randrange(1, 8))
        for time, group, kind in self.log[self.folded : until]:
            if self.rebuild and time < self.rebuild.rebuild_from:
                continue
            held = self.groups.setdefault(group, {})
            start = WINDOWS.bucket(time)
            first, last, alerts, kinds = held.get(start, (time, time, 0, frozenset()))
            more = kinds if kind is None else kinds | {kind}
            held[start] = min(first, time), max(last, time), alerts + 1, more
        self.folded = until
        if until == len(self.log):
            for partition in range(2):
                # A partition that was read to its end has reached the clock, unless it is idle.
                if self.rng.random() < 0.7:
                    self.progress[partition] = max(self.progress[partition], self.now)
                self.marks[partition] = max(self.progress[partition], self.marks[partition] or 0)

    def close(self) -> None:
        """Closes a final segment: publishes it, and deletes it."""
        if self.horizon is None:
            return
        for group in self.rng.sample(sorted(self.groups), len(self.groups)):
            for segment in self.segments(group):
                if segment.due > self.horizon - WINDOWS.grace:
                    break
                made = self.aggregate(group, segment)
                if not self.rebuild or segment.start >= self.rebuild.closed_before:
                    self.published.add(made.name)
                    self.storms.append(made)
                for bucket in segment.buckets:
                    del self.groups[group][bucket.start]
                if not self.groups[group]:
                    del self.groups[group]
                return

    def commit(self) -> None:
        """Fold commits: all that begins before is closed and published."""
        if self.horizon is None:
            return
        first = min((min(held) for held in self.groups.values()), default=self.horizon)
        closed = min(WINDOWS.bucket(self.horizon - WINDOWS.grace), first)
        floor = self.rebuild.closed_before if self.rebuild else 0
        self.closed_before = max(self.closed_before, closed, floor)

    def lose(self) -> None:
        """Redis loses everything: a new state version reads again."""
        self.rebuild = Rebuild.of(self.closed_before, WINDOWS) if self.closed_before else None
        self.version += 1
        self.groups, self.marks, self.folded = {}, [None, None], 0

    def toggle(self) -> None:
        self.away = not self.away

    def change(self) -> None:
        """The lease ends: its holder is dead, or is frozen and continues later."""
        if self.holders and self.rng.random() < 0.5:
            self.holders.pop()
        self.lease += 1
        self.holders = [*self.holders[-2:], self.hold(self.lease)]

    def act(self) -> None:
        holder = self.rng.choice([self.holders[-1]] * 4 + self.holders)
        for _ in range(self.rng.randrange(1, 6)):
            next(holder)

    def segments(self, group: Group) -> list[Segment]:
        held = self.groups[group]
        buckets = [Bucket(start, alerts, first, last) for start, (first, last, alerts, _) in held.items()]
        return segments(buckets, WINDOWS, self.rebuild)

    def aggregate(self, group: Group, segment: Segment) -> Scoped:
        kinds = frozenset().union(*(self.groups[group][bucket.start][3] for bucket in segment.buckets))
        return made(group, segment, len(kinds))

    def look(self) -> Look | None:
        horizon = self.horizon
        if self.away or horizon is None:
            return None
        found: list[Aggregate] = []
        for group in sorted(self.groups):
            for segment in self.segments(group):
                hidden = self.rebuild and segment.start < self.rebuild.closed_before
                if not hidden:
                    found.append(self.aggregate(group, segment))
        watermark = horizon - WINDOWS.grace
        return Look(watermark + (5 if self.mutation == "before the watermark" else 0), found)

    def hold(self, number: int) -> Iterator[None]:
        """A worker with the lease, from its start; each `yield` is a point at which all others can act."""
        correlation, position = Correlation(), 0
        notices = Notices(firing=dict(self.manager))
        closed_before = 0
        while True:
            look = self.look()
            yield
            closed_before = max(closed_before, self.closed_before)
            if self.mutation == "over at the watermark" and look is not None:
                closed_before = look.watermark
            yield
            for made in self.storms[position:]:
                correlation.add(made, RecordPlace(0, position, position))
                position += 1
            yield
            for forming in correlation.final(closed_before):
                correlation.know(forming.build(), [storm.name for storm in forming.storms])
            yield
            before = dict(notices.firing)
            if self.mutation == "Redis away" and look is None:
                notices.firing.clear()
            certain = self.certain(look, correlation)
            notices.update(look, closed_before, correlation, self.now)
            if self.lease == number:
                self.post(before, notices, certain)
            yield

    def certain(self, look: Look | None, correlation: Correlation) -> dict[ScopeKey, frozenset[str]]:
        """The storms that make an incident open, by scope."""
        found: dict[ScopeKey, set[str]] = defaultdict(set)
        for one, watermark in [(one, look.watermark) for one in look.segments] if look else ():
            part = Part.of(one)
            if part and part.storm and part.first <= watermark and not correlation.is_done(part):
                found[part.scope.key].add(part.name)
        for key in correlation.scopes:
            for forming in correlation.forming(key):
                found[key] |= {storm.name for storm in forming.storms}
        return {key: frozenset(names) for key, names in found.items()}

    def post(self, before: dict[ScopeKey, Firing], notices: Notices, certain: dict[ScopeKey, frozenset[str]]) -> None:
        for scope in notices.firing:
            names = certain.get(scope, frozenset())
            self.events.append(("fire", scope, names))
            if scope not in before:
                self.announced |= names
        for scope in before.keys() - notices.firing.keys():
            self.events.append(("resolve", scope, frozenset()))
        self.manager = dict(notices.firing)

    def run(self, steps: int) -> None:
        weights = {
            self.produce: 12, self.fold: 16, self.close: 12, self.commit: 6, self.act: 24, self.wait: 2,
            self.change: 0.7, self.lose: 0.3, self.toggle: 0.6,
        }  # fmt: skip
        shares = [usual * self.rng.choice((0.2, 1, 1, 4)) for usual in weights.values()]
        for act in self.rng.choices(list(weights), shares, k=steps):
            act()
        self.away = False
        self.holders = self.holders[-1:]
        for _ in range(400):
            self.now += 5
            self.fold()
            self.close()
            self.commit()
            for _ in range(6):
                next(self.holders[-1])
            if self.folded == len(self.log) and not self.groups and not self.manager:
                return

    def check(self) -> None:
        """Compares the announcements with the incidents of a plain batch."""
        firsts: dict[str, Scoped] = {}
        for one in self.storms:
            assert firsts.setdefault(one.name, one) == one, "a rebuild published something else"
        incidents = {name: one.name for one in plain(firsts.values()) for name, _ in one.storms}
        for name in self.announced:
            assert name in incidents, f"{name} was announced, and is in no incident"
        spans: dict[str, list[int]] = defaultdict(list)
        for index, (kind, _, names) in enumerate(self.events):
            if kind == "fire":
                for incident in {incidents[name] for name in names if name in incidents}:
                    spans[incident].append(index)
        for incident, fired in spans.items():
            scope = self.events[fired[0]][1]
            between = self.events[fired[0] : fired[-1]]
            assert ("resolve", scope, frozenset()) not in between, f"{incident} was resolved, and fires again"
        assert not self.manager, "something fires for ever"


def made(group: Group, segment: Segment, kinds: int) -> Scoped:
    cluster, name = group
    first, last = segment.buckets[0].first, segment.buckets[-1].last
    return aggregate(
        f"{cluster}{name}-{segment.start}", cluster, "Storm" if kinds >= NEED else "Isolated", first, last,
        alerts=sum(bucket.alerts for bucket in segment.buckets), gap=INCIDENT_GAP, max_length=MAX_LENGTH,
        window_gap=WINDOWS.gap,
    )  # fmt: skip


def run(seed: int, mutation: str = "") -> World:
    world = World(seed, mutation)
    world.run(world.rng.choice((50, 150, 300)))
    world.check()
    return world


@settings(deadline=None, max_examples=200, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_only_storms_are_announced_and_an_incident_fires_once(seed: int) -> None:
    run(seed)


def test_most_incidents_are_announced() -> None:
    worlds = [run(seed) for seed in range(100)]
    assert sum(len(world.announced) for world in worlds) > sum(len(world.published) for world in worlds) / 10


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_histories_find_a_worker_that_breaks_a_rule(mutation: str) -> None:
    """Otherwise the test above could not fail."""
    for seed in range(2000):
        try:
            run(seed, mutation)
        except AssertionError:
            return
    pytest.fail("no history found it")
