"""Which components are unhealthy, stale or not ready, and why."""

import time
from dataclasses import dataclass, field

import pytest

from stormfold.health import Health


@dataclass
class Reading:
    """The consumer of a stage, as it describes itself."""

    name: str = "fold"
    generation: int = 2
    mine: set[int] = field(default_factory=set)
    unmanaged: set[int] = field(default_factory=set)
    quarantined: dict[int, str] = field(default_factory=dict)
    polled: set[int] = field(default_factory=set)
    positions: dict[int, int] = field(default_factory=dict)
    event_times: dict[int, int] = field(default_factory=dict)
    lag: dict[int, int] = field(default_factory=dict)
    unstable_lag: dict[int, int] = field(default_factory=dict)

    def assigned(self) -> set[int]:
        return self.mine


def problems(reading: Reading) -> list[str]:
    """The problems of a worker with this one stage, which has reported a heartbeat."""
    health = Health(lambda: [reading])
    health.set_healthy(reading.name)
    return [f"{problem.component}: {problem.problem}" for problem in health.problems()]


@pytest.mark.parametrize(
    "reading",
    [
        Reading(mine={0, 1}, polled={0, 1}, lag={0: 0, 1: 5_000_000}),
        Reading(mine={0, 1}, polled={1}),
        Reading(mine=set()),
        Reading(mine={7}, unmanaged={7}),
    ],
    ids=["behind, but reading", "one partition paused", "no partitions", "only unmanaged partitions"],
)
def test_a_stage_with_lag_or_without_work_is_ready(reading: Reading) -> None:
    assert problems(reading) == []


@pytest.mark.parametrize(
    ("reading", "why"),
    [
        (Reading(generation=0), "it is joining its consumer group"),
        (Reading(generation=1), "it is joining its consumer group"),
        (Reading(mine={0, 1}), "it has not read any of its partitions yet"),
        (Reading(mine={0, 1}, polled={2}), "it has not read any of its partitions yet"),
        (Reading(mine={0, 1}, polled={1}, quarantined={0: "no"}), "partitions are not read: 0: no"),
        (Reading(mine={0}, quarantined={0: "no"}), "partitions are not read: 0: no"),
    ],
)
def test_a_stage_that_does_not_read_its_partitions_is_not_ready(reading: Reading, why: str) -> None:
    assert problems(reading) == [f"fold: {why}"]


def test_a_problem_keeps_its_beginning_and_ends_when_the_component_is_healthy() -> None:
    """The newest text of a problem counts, and the time of the first."""
    health = Health()
    begin = time.time()
    assert health.set_unhealthy("redis", "it is away", "start it")
    assert health.set_unhealthy("redis", "it is still away", "start it")
    assert not health.set_unhealthy("redis", "it is still away", "start it")
    (problem,) = health.problems()
    assert (problem.component, problem.problem, problem.hint) == ("redis", "it is still away", "start it")
    assert begin <= problem.since <= time.time()
    health.clear("redis", "another problem")
    assert health.problems() == [problem]
    health.set_healthy("redis")
    assert health.problems() == []


def test_a_component_without_heartbeats_is_stale_even_if_it_has_no_problem() -> None:
    health = Health()
    health.set_healthy("fold")
    health.set_unhealthy("emit", "forbidden")
    assert health.stale() == []
    for name in health.heartbeats:
        health.heartbeats[name] -= health.timeout + 1
    health.set_unhealthy("emit", "forbidden")
    assert health.stale() == ["fold"]
    assert [problem.component for problem in health.problems()] == ["emit", "fold"]
    health.heartbeat("fold")
    assert health.stale() == []


def test_a_stage_that_never_reported_a_heartbeat_is_stale_after_the_timeout() -> None:
    health = Health(lambda: [Reading(generation=0)])
    assert health.stale() == []
    health.timeout = -1.0
    assert health.stale() == ["fold"]
