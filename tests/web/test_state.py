"""What is judged wrong, from what parts say of themselves."""

import time
from dataclasses import dataclass, field

import pytest

from app.health import Health
from app.web.state import State


@dataclass
class Reading:
    """A feed as it tells of itself."""

    name: str
    generation: int = 2
    mine: set[int] = field(default_factory=set)
    foreign: set[int] = field(default_factory=set)
    refused: dict[int, str] = field(default_factory=dict)
    read: set[int] = field(default_factory=set)
    done: dict[int, int] = field(default_factory=dict)
    reached: dict[int, int] = field(default_factory=dict)
    lag: dict[int, int] = field(default_factory=dict)
    lost: dict[int, int] = field(default_factory=dict)

    def assigned(self) -> set[int]:
        return self.mine


def judged(reading: Reading) -> list[str]:
    """The troubles of a worker with this one stage, which has come round."""
    health = Health()
    health.well(reading.name)
    return [f"{t.part}: {t.trouble}" for t in State(health, lambda: [reading]).troubles()]


@pytest.mark.parametrize(
    "reading",
    [
        Reading("fold", mine={0, 1}, read={0, 1}, lag={0: 0, 1: 5_000_000}),
        Reading("fold", mine={0, 1}, read={1}),
        Reading("fold", mine=set()),
        Reading("fold", mine={7}, foreign={7}),
    ],
    ids=["behind, but reading", "a partition on hold", "standing by", "only partitions of nobody"],
)
def test_ready(reading: Reading) -> None:
    """Lag is no trouble, nor is having nothing to do."""
    assert judged(reading) == []


@pytest.mark.parametrize(
    ("reading", "why"),
    [
        (Reading("fold", generation=0), "it is joining its consumer group"),
        (Reading("fold", generation=1), "it is joining its consumer group"),
        (Reading("fold", mine={0, 1}), "it has not read any of its partitions yet"),
        (Reading("fold", mine={0, 1}, read={2}), "it has not read any of its partitions yet"),
        (Reading("fold", mine={0, 1}, read={1}, refused={0: "no"}), "partitions are not read: 0: no"),
        (Reading("fold", mine={0}, refused={0: "no"}), "partitions are not read: 0: no"),
    ],
)
def test_not_ready(reading: Reading, why: str) -> None:
    """A stage must have its partitions and read them, every one that is not held back for a moment."""
    assert judged(reading) == [f"fold: {why}"]


def test_trouble_with_time_and_advice() -> None:
    """A trouble counts from when it began, however often it is told, and ends when the part is well."""
    health = Health()
    state = State(health, list)
    begin = time.time()
    health.ill("redis", "it is away", "start it")
    health.ill("redis", "it is still away", "start it")
    (trouble,) = state.troubles()
    assert (trouble.part, trouble.trouble, trouble.advice) == ("redis", "it is still away", "start it")
    assert begin <= trouble.since <= time.time()
    health.well("redis")
    assert state.troubles() == []


def test_dead() -> None:
    """A part that does not come round is dead, one that is in trouble and says so is not."""
    health = Health()
    state = State(health, list)
    health.well("fold")
    health.ill("emit", "forbidden")
    assert state.dead() == []
    for part in health.parts.values():
        part.alive -= health.patience + 1
    health.ill("emit", "forbidden")
    assert state.dead() == ["fold"]
    assert [trouble.part for trouble in state.troubles()] == ["emit", "fold"]
    health.alive("fold")
    assert state.dead() == []


def test_dead_from_the_beginning() -> None:
    """A stage that never came round is dead too, after as long."""
    health = Health()
    state = State(health, lambda: [Reading("intake", generation=0)])
    assert state.dead() == []
    health.patience = -1.0
    assert state.dead() == ["intake"]
