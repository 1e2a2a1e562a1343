"""What is judged wrong, from what parts say of themselves."""

import time
from dataclasses import dataclass, field

import pytest

from stormfold.health import Health
from stormfold.web.state import State


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
    """The problems of a worker with this one stage, which has come round."""
    health = Health()
    health.set_healthy(reading.name)
    return [f"{t.component}: {t.problem}" for t in State(health, lambda: [reading]).problems()]


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
    """Lag is no problem, nor is having nothing to do."""
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
    """A problem counts from when it began, however often it is told, and ends when the part is well."""
    health = Health()
    state = State(health, list)
    begin = time.time()
    health.set_unhealthy("redis", "it is away", "start it")
    health.set_unhealthy("redis", "it is still away", "start it")
    (problem,) = state.problems()
    assert (problem.component, problem.problem, problem.hint) == ("redis", "it is still away", "start it")
    assert begin <= problem.since <= time.time()
    health.set_healthy("redis")
    assert state.problems() == []


def test_dead() -> None:
    """A part that does not come round is dead, one that is in problem and says so is not."""
    health = Health()
    state = State(health, list)
    health.set_healthy("fold")
    health.set_unhealthy("emit", "forbidden")
    assert state.dead() == []
    for part in health.components.values():
        part.last_heartbeat -= health.timeout + 1
    health.set_unhealthy("emit", "forbidden")
    assert state.dead() == ["fold"]
    assert [problem.component for problem in state.problems()] == ["emit", "fold"]
    health.heartbeat("fold")
    assert state.dead() == []


def test_dead_from_the_beginning() -> None:
    """A stage that never came round is dead too, after as long."""
    health = Health()
    state = State(health, lambda: [Reading("intake", generation=0)])
    assert state.dead() == []
    health.timeout = -1.0
    assert state.dead() == ["intake"]
