"""Intake without servers: a poll has one state version, whatever its marks find in Redis."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from stormfold import metrics
from stormfold.config import Config, LoadedConfig, ReloadableConfig
from stormfold.errors import Retry
from stormfold.eventtime import Progress
from stormfold.health import Health
from stormfold.kafka.batch import Batch
from stormfold.kafka.group_member import GroupMember
from stormfold.keyed_record import decode_marks
from stormfold.positions import Position
from stormfold.redis.clock import Clock
from stormfold.redis.versions import StateVersion
from stormfold.series import SeriesReader
from stormfold.settings import Settings
from stormfold.stages import intake, left_out
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
    stage: Any = Intake(Settings(), ReloadableConfig(Config()), Store(), Health(), member)  # type: ignore[arg-type]
    stage._producer = producer = Producer()
    stage._version, stage._progress, stage._positions = OLD, {0: Progress(None)}, {0: Position(0)}
    await stage.process(Batch(0, {0: [Stored(offset) for offset in range(3)]}, {}))
    assert producer.graces == [8_000] * len(producer.graces) and len(producer.graces) > 2
    await stage.process(Batch(0, {0: [Stored(3)]}, {}))
    assert producer.graces[-1] == 1_000


class Outage(Producer):
    """Sends to no server. The first `failures` deliveries fail, after a part of them may have arrived."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures
        self.sent: list[str] = []

    async def send(self, _topic: str, records: dict[int, list[tuple[bytes | None, bytes]]]) -> None:
        self.sent += [key.decode() for key, _ in records[0] if key is not None]
        if self.failures:
            self.failures -= 1
            raise Retry("no acknowledgement")


class Rewinding(Member):
    """A member that counts rewinds."""

    rewinds = 0

    async def sleep_current(self, _batch: Batch, _seconds: float) -> bool:
        return True

    def rewind(self) -> None:
        self.rewinds += 1


def with_cluster(name: str) -> Config:
    """A configuration under which an alert without a cluster has another fingerprint."""
    return Config(default_labels={"cluster": name})


def key_under(config: Config) -> str:
    ((keyed, _),) = SeriesReader(config).parse(Stored(0).value, [], 0)
    return keyed.key.decode()


async def test_a_reloaded_configuration_waits_until_what_was_sent_is_committed() -> None:
    """What is sent again must have the same key: in another partition, fold would count it twice."""
    before, after = with_cluster("a"), with_cluster("b")
    old, new = key_under(before), key_under(after)
    configuration, member, producer = ReloadableConfig(before), Rewinding(), Outage(failures=1)
    stage: Any = Intake(Settings(), configuration, Store(), Health(), member)  # type: ignore[arg-type]
    stage._producer, stage._version, stage._marked_at = producer, NEW, float("inf")
    stage._progress, stage._positions = {0: Progress(None)}, {0: Position(0)}
    await stage.process(Batch(0, {0: [Stored(0), Stored(1)]}, {}))
    configuration.current = replace(configuration.current, config=after)
    assert member.rewinds == 1
    await stage.process(Batch(1, {0: [Stored(0)]}, {}))
    await stage.process(Batch(1, {0: [Stored(1)]}, {}))
    assert producer.sent == [old] * 4, "record 1 was sent under the old configuration"
    await stage.process(Batch(1, {0: [Stored(2)]}, {}))
    assert producer.sent[4:] == [new] and member.rewinds == 1


async def test_reloaded_windows_are_requested_once_by_a_rewind() -> None:
    configuration, member, producer = ReloadableConfig(Config()), Rewinding(), Outage(failures=0)
    stage: Any = Intake(Settings(), configuration, Store(), Health(), member)  # type: ignore[arg-type]
    stage._producer, stage._version, stage._marked_at = producer, NEW, float("inf")
    stage._progress, stage._positions = {0: Progress(None)}, {0: Position(0)}
    configuration.current = LoadedConfig(Config(windows=Windows(grace=1)), configuration.current.windows_at + 1)
    await stage.process(Batch(0, {0: [Stored(0)]}, {}))
    assert member.rewinds == 1 and producer.sent == []
    await stage.process(Batch(1, {0: [Stored(0)]}, {}))
    assert member.rewinds == 1 and len(producer.sent) == 1


async def test_alerts_that_senders_left_out_are_counted_and_a_warning_for_some_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The warning does not keep the worker from being ready."""
    health, member = Health(), Member()
    stage: Any = Intake(Settings(), ReloadableConfig(Config()), Store(), health, member)  # type: ignore[arg-type]
    stage._producer, stage._version, stage._marked_at = Outage(failures=0), NEW, float("inf")
    stage._progress, stage._positions = {0: Progress(None)}, {0: Position(0)}
    before = metrics.ALERTS_LEFT_OUT._value.get()
    webhook = b'{"version": "4", "truncatedAlerts": 7, "alerts": [{"labels": {"alertname": "A"}}]}'
    await stage.process(Batch(0, {0: [Stored(0), Stored(1, value=webhook), Stored(2, value=webhook)]}, {}))
    assert metrics.ALERTS_LEFT_OUT._value.get() - before == 14
    assert "left 14 alerts out" in health.warnings["senders"].problem and health.problems() == []
    stage._left_out.update()
    assert health.warnings
    monkeypatch.setattr(left_out, "WARNING_SECONDS", -1.0)
    stage._left_out.update()
    assert not health.warnings


def test_a_poll_is_no_larger_than_a_chunk() -> None:
    settings = Settings(max_poll_records=50_000)
    member = GroupMember("intake", settings.alerts_topic, settings, Health())
    Intake(settings, ReloadableConfig(Config()), Store(), Health(), member)  # type: ignore[arg-type]
    assert member.max_records == intake.MAX_ALERTS_PER_CHUNK
