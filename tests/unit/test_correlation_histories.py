"""Random histories of workers that correlate: crashes, lost commits, two at once, frozen ones, records that come again.

Each step is atomic, everything else interleaves. The state under test is the product's; topics and commits are lists.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterator
from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stormfold.correlation import Added, Correlation, RecordPlace
from stormfold.incident import Incident
from stormfold.incident_manifest import encode_manifest
from stormfold.storm import AggregateClass
from tests.support.incidents import Scoped, aggregate, facts, plain

MUTATIONS = (
    "ends first", "no read back", "commit the position", "commit first", "no gap", "forget early", "storms only",
    "incidents first",
)  # fmt: skip
"""Wrong orders and omissions of a worker, which the histories must find."""


class World:
    """Topics, commits, and the time up to which all is published."""

    def __init__(self, seed: int, mutation: str = "") -> None:
        self.rng = Random(seed)
        self.mutation = mutation
        self.storms: list[list[tuple[int, Scoped]]] = [[], []]
        """Partitions of (time of the record, aggregate)."""
        self.begins = [0, 0]
        """The first offset that retention has left."""
        self.incidents: list[tuple[int, Incident]] = []
        """Each with the number of records in `storms` at that time."""
        self.first_incident = 0
        self.commits: dict[int, int] = {}
        self.passed = defaultdict[int, int](int)
        """The latest commit of each partition."""
        self.unpublished: list[Scoped] = []
        self.closed_before = self.now = 100
        self.names = 0
        self.records = 0
        self.rules = [(gap, length) for gap in (6, 9) for length in (9, 20)]
        self.holders: list[Iterator[None]] = [hold(self)]
        """The last has the lease; others were frozen when they lost it."""

    def happen(self) -> None:
        """An aggregate begins, and is published later."""
        rng = self.rng
        self.names += 1
        first = rng.randrange(self.closed_before, self.now + 1)
        first = max(first, self.closed_before + first % 2)
        kind: AggregateClass = rng.choice(("Storm", "Storm", "Isolated", "Isolated", "Silenced"))
        gap, length = rng.choice(self.rules)
        made = aggregate(
            f"{rng.choice('xyz')}-{self.names}", rng.choice("ab"), kind, first, first + rng.randrange(9),
            alerts=self.names, gap=gap, max_length=length,
        )  # fmt: skip
        self.unpublished.append(made)

    def publish(self) -> None:
        """Close publishes an aggregate, perhaps again."""
        if self.unpublished:
            made = self.unpublished.pop(self.rng.randrange(len(self.unpublished)))
            for _ in range(self.rng.choice((1, 1, 1, 2))):
                self.append(made)

    def replay(self) -> None:
        """A retained aggregate is published again, with other detail or class."""
        retained = [made for log, begin in zip(self.storms, self.begins, strict=True) for _, made in log[begin:]]
        if retained:
            made = self.rng.choice(retained[-20:])
            kind = "Isolated" if made.aggregate_class == "Storm" and self.rng.random() < 0.3 else made.aggregate_class
            self.append(msgspec.structs.replace(made, alert_count=made.alert_count + 1000, aggregate_class=kind))

    def append(self, made: Scoped) -> None:
        self.records += 1
        self.storms[zlib.crc32(made.name.encode()) % len(self.storms)].append((self.records, made))

    def advance(self) -> None:
        """Time passes, and what begins before some time is published."""
        self.now += self.rng.choice((1, 2, 5, 12))
        begins = [made.first_seen - made.first_seen % 2 for made in self.unpublished]
        limit = min([self.now, *begins])
        self.closed_before = max(self.closed_before, self.rng.choice((limit, limit, (self.closed_before + limit) // 2)))

    def add_partition(self) -> None:
        if len(self.storms) < 4 and self.rng.random() < 0.2:
            self.storms.append([])
            self.begins.append(0)

    def hold(self) -> None:
        """A holder takes some steps: mostly the one with the lease."""
        holder = self.rng.choice([self.holders[-1]] * 4 + self.holders)
        for _ in range(self.rng.randrange(1, 9)):
            next(holder)

    def change(self) -> None:
        """The lease ends: its holder is dead, or is frozen and continues later."""
        if self.rng.random() < 0.5:
            self.holders.pop()
        self.holders = [*self.holders[-3:], hold(self)]

    def lose_commits(self) -> None:
        for partition in list(self.commits):
            if self.rng.random() < 0.3:
                del self.commits[partition]

    def retain(self) -> None:
        """Retention deletes records that a commit has passed, and older incidents that none of the retained is in."""
        partition = self.rng.randrange(len(self.storms))
        limit = self.passed[partition]
        self.begins[partition] = max(self.begins[partition], self.rng.randrange(limit + 1))
        kept = [record for log, begin in zip(self.storms, self.begins, strict=True) for record in log[begin:]]
        names = {made.name for _, made in kept}
        while self.first_incident < len(self.incidents):
            time, oldest = self.incidents[self.first_incident]
            inside = {storm.name for storm in oldest.storms} | {other.pattern[:-2] for other in oldest.other_groups}
            if inside & names or any(time >= of_record for of_record, _ in kept):
                break
            self.first_incident += 1

    def run(self, steps: int) -> None:
        weights = {
            self.happen: 12, self.publish: 12, self.advance: 6, self.hold: 30, self.replay: 1.5, self.change: 1.5,
            self.lose_commits: 0.2, self.retain: 1, self.add_partition: 0.5,
        }  # fmt: skip
        for act in self.rng.choices(list(weights), list(weights.values()), k=steps):
            act()
        while self.unpublished:
            self.publish()
            self.hold()
        for _ in range(12):
            self.now += 20
            self.closed_before = self.now
            for holder in self.holders:
                for _ in range(60):
                    next(holder)

    def check(self) -> None:
        """Compares the incidents with those of a plain batch of the first record of each name."""
        found: dict[str, set[bytes]] = defaultdict(set)
        for _, incident in self.incidents:
            found[incident.name].add(encode_manifest(incident))
        assert all(len(contents) == 1 for contents in found.values()), "two contents under one name"
        firsts: dict[str, Scoped] = {}
        for _, made in sorted((record for log in self.storms for record in log), key=lambda record: record[0]):
            firsts.setdefault(made.name, made)
        unique = {incident.name: incident for _, incident in self.incidents}
        assert sorted(map(facts, unique.values())) == sorted(plain(firsts.values()))


def hold(world: World) -> Iterator[None]:
    """A worker with the lease, from its start; each `yield` is a point at which all others can act."""
    rng, mutation = world.rng, world.mutation
    correlation = Correlation()
    commits, begins = dict(world.commits), dict(enumerate(world.begins))
    yield
    if mutation != "no read back":
        for _, incident in world.incidents[world.first_incident :]:
            correlation.know(incident)
    positions: dict[int, int] = {}
    closed_before = -1
    while True:
        if mutation == "ends first":
            ends = [len(log) for log in world.storms]
            yield
        closed_before = max(closed_before, world.closed_before)
        yield
        if mutation != "ends first":
            ends = [len(log) for log in world.storms]
        for partition in range(len(positions), len(ends)):
            known = world.commits if mutation == "incidents first" else commits
            positions[partition] = max(known.get(partition, 0), begins.get(partition, 0))
        yield
        while behind := [partition for partition, at in positions.items() if at < ends[partition]]:
            partition = rng.choice(behind)
            for offset in range(positions[partition], min(positions[partition] + 5, len(world.storms[partition]))):
                time, made = world.storms[partition][offset]
                assert isinstance(correlation.add(made, RecordPlace(partition, offset, time)), Added)
                positions[partition] = offset + 1
            yield
        seen = closed_before + (6 if mutation == "no gap" else 0)
        final = correlation.final(seen)
        if mutation == "commit first":
            _commit(world, correlation, positions, {storm.name for one in final for storm in one.storms})
            yield
        for forming in final:
            incident = forming.build()
            world.incidents.append((world.records, incident))
            correlation.know(incident, [storm.name for storm in forming.storms])
            yield
        correlation.forget(10**9 if mutation == "forget early" else closed_before)
        if rng.random() < 0.7:
            _commit(world, correlation, positions, set())
        yield


def _commit(world: World, correlation: Correlation, positions: dict[int, int], done: set[str]) -> None:
    needed = correlation.needed(positions)
    if world.mutation == "commit the position":
        needed = dict(positions)
    if world.mutation in ("storms only", "commit first"):
        needed = dict(positions)
        for partition, log in enumerate(world.storms):
            for offset in range(world.begins[partition], positions.get(partition, 0)):
                made = log[offset][1]
                skip = made.aggregate_class != "Storm" if world.mutation == "storms only" else made.name in done
                if correlation.is_pending(made.name) and not skip:
                    needed[partition] = min(needed[partition], offset)
    lost = world.rng.randrange(len(positions)) if world.rng.random() < 0.1 else None
    world.commits |= {partition: at for partition, at in needed.items() if partition != lost}
    for partition, at in needed.items():
        world.passed[partition] = max(world.passed[partition], at)


def run(seed: int, mutation: str = "") -> None:
    world = World(seed, mutation)
    world.run(world.rng.choice((50, 150, 300)))
    world.check()


@settings(deadline=None, max_examples=120, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_every_history_gives_the_incidents_of_a_plain_batch(seed: int) -> None:
    run(seed)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_histories_find_a_worker_that_breaks_a_rule(mutation: str) -> None:
    """Otherwise the test above could not fail."""
    for seed in range(1000):
        try:
            run(seed, mutation)
        except AssertionError:
            return
    pytest.fail("no history found it")
