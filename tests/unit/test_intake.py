"""Intake without servers: a poll has one state version, whatever its marks find in Redis."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from stormfold.config import Config
from stormfold.eventtime import Progress
from stormfold.health import Health
from stormfold.kafka.batch import Batch
from stormfold.keyed_record import decode_marks
from stormfold.positions import Position
from stormfold.redis.clock import Clock
from stormfold.redis.versions import StateVersion
from stormfold.settings import Settings
from stormfold.stages import intake
from stormfold.stages.intake import Intake
from stormfold.window import Windows

OLD = StateVersion(1, Windows(grace=8_000), partitions=1, rebuild=None)
NEW = replace(OLD, number=2, windows=Windows(grace=1_000))


@dataclass
class Stored:
    """A record of `alerts`."""

    offset: int
    timestamp: int = 1_000_000
    key: bytes | None = None
    value: bytes | None = b'{"labels": {"alertname": "A"}}'
    headers: tuple[tuple[str, bytes], ...] = ()


class Store:
    """Redis, where another worker has just opened the version `NEW`."""

    async def version(self) -> StateVersion:
        return NEW

    async def clock(self, _version: StateVersion) -> Clock:
        return Clock(horizon=None, open_groups=0, first_open=None)

    async def save_intake_commits(self, _notes: Any) -> None: ...


class Member:
    """A member of the group that stays assigned."""

    name, topic, positions = "intake", "alerts", {0: 0}
    event_times: dict[int, int]

    def is_current(self, _batch: Batch) -> bool:
        return True

    def assigned(self) -> set[int]:
        return {0}

    def set_paused(self, _partitions: set[int]) -> None: ...

    async def commit(self, _offsets: Any) -> bool:
        return True


class Producer:
    """Keeps the graces that marks state."""

    def __init__(self) -> None:
        self.graces: list[int] = []

    async def partitions(self, _topic: str) -> int:
        return 1

    async def send(self, _topic: str, records: dict[int, list[tuple[bytes | None, bytes]]]) -> None:
        for key, value in records[0]:
            if key is None:
                self.graces.append(decode_marks(value).grace)


async def test_all_marks_of_a_poll_state_the_grace_under_which_its_alerts_are_stamped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A smaller grace in a mark would permit a watermark that later chunks of the poll can be behind."""
    monkeypatch.setattr(intake, "MAX_ALERTS_PER_CHUNK", 1)
    monkeypatch.setattr(intake, "MARK_INTERVAL", 0.0)
    member: Any = Member()
    stage: Any = Intake(Settings(), Config(), Store(), Health(), member)  # type: ignore[arg-type]
    stage._producer = producer = Producer()
    stage._version, stage._progress, stage._positions = OLD, {0: Progress(None)}, {0: Position(0)}
    await stage.process(Batch(0, {0: [Stored(offset) for offset in range(3)]}, {}))
    assert producer.graces == [8_000] * len(producer.graces) and len(producer.graces) > 2
    await stage.process(Batch(0, {0: [Stored(3)]}, {}))
    assert producer.graces[-1] == 1_000
