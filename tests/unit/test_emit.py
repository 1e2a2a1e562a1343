"""Emit without servers: lanes are independent, nothing is committed past a record that waits, defects end cleanly."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from stormfold import metrics
from stormfold.config import ReloadableConfig, loads
from stormfold.errors import ActionRequired, DeadLetter, Retry
from stormfold.health import Health
from stormfold.kafka.batch import Batch, PartitionEnd
from stormfold.kafka.group_member import GroupMember
from stormfold.settings import Settings
from stormfold.sinks import Outcome, kinds
from stormfold.sinks.kinds import ResourceKind
from stormfold.stages import emit
from stormfold.stages.emit import Emit
from stormfold.stages.emitted import Emitted
from tests.support.servers import until


def emitted(kind: ResourceKind, text: str = "") -> Emitted:
    """A kind of resource under a configuration."""
    return Emitted(kind, Settings(), ReloadableConfig(loads(text, "test")))


STORMS, INCIDENTS = emitted(kinds.STORMS), emitted(kinds.INCIDENTS)


@dataclass
class Stored:
    """A record, by default of a storm."""

    key: bytes
    offset: int = 0
    namespace: str = "storms"
    record_class: str = "Storm"
    timestamp: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def value(self) -> bytes:
        metadata = {"name": self.key.decode(), "namespace": self.namespace}
        return json.dumps({"metadata": metadata, "spec": {"class": self.record_class}}).encode()


class Sink:
    """Refuses namespaces in `problems`, fails unexpectedly at `defect`, holds writes while `open` is not set."""

    concurrency = 8

    def __init__(self) -> None:
        self.written: list[str] = []
        self.problems: dict[str, Exception] = {}
        self.checked: list[str] = []
        self.unchecked: dict[str, Exception] = {}
        self.open = asyncio.Event()
        self.open.set()
        self.running = self.most = 0

    async def check(self, namespace: str) -> None:
        self.checked.append(namespace)
        if error := self.unchecked.get(namespace):
            raise error

    async def write(self, manifest: Any, name: str) -> Outcome:
        namespace = manifest["metadata"]["namespace"]
        if problem := self.problems.get(namespace):
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.01)
            self.running -= 1
            raise problem
        await self.open.wait()
        if name == "defect":
            raise RuntimeError("a defect")
        self.written.append(name)
        return Outcome.EXISTS

    async def close(self) -> None: ...


class Member(GroupMember):
    """A member whose partitions are assigned and whose commits succeed."""

    def __init__(self, emitted: Emitted, health: Health, partitions: int) -> None:
        super().__init__(emitted.kind.component, emitted.topic, Settings(), health)
        self.positions = dict.fromkeys(range(partitions), 0)
        self.committed: dict[int, int] = {}
        self.paused: set[int] = set()

    def assigned(self) -> set[int]:
        return set(self.positions)

    def set_paused(self, partitions: set[int]) -> None:
        self.paused = partitions

    async def commit(self, offsets: Any) -> bool:
        self.committed |= {partition: offset for partition, (offset, _) in offsets.items()}
        return True


class Stage:
    """Emit with a sink, and a poll loop that a test drives."""

    def __init__(self, emitted: Emitted = STORMS, partitions: int = 3) -> None:
        self.health = Health()
        self.sink = Sink()
        self.member = Member(emitted, self.health, partitions)
        self.emit = Emit(emitted, Settings(), self.sink, self.health, self.member)  # type: ignore[arg-type]

    async def poll(self, records: dict[int, list[Stored]] | None = None, ends: dict[int, int] | None = None) -> None:
        """Passes a poll to emit."""
        found = {partition: PartitionEnd(0, offset) for partition, offset in (ends or {}).items()}
        await self.emit.process(Batch(self.member.generation, records or {}, found))

    async def begin(self) -> None:
        """Starts a generation."""
        await self.emit.start_positions(None, self.member.assigned())

    async def wrote(self, *names: str) -> None:
        """Waits until exactly these are written, in this order for each namespace."""

        async def done() -> bool:
            await self.poll()
            return sorted(self.sink.written) == sorted(names)

        await until(done, what=f"{names} are written")

    @property
    def problem(self) -> str:
        return "; ".join(problem.problem for problem in self.health.reported.values())


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """No commits to read, no waiting between commits, and short back-offs."""

    async def nothing_committed(*_: Any) -> dict[int, Any]:
        return {}

    monkeypatch.setattr(emit, "read_committed", nothing_committed)
    monkeypatch.setattr(emit, "COMMIT_INTERVAL", 0.0)
    monkeypatch.setattr(emit, "MIN_BACKOFF", 0.02)
    monkeypatch.setattr(emit, "ACTION_BACKOFF", 0.02)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    found = Stage()
    await found.begin()
    yield found
    await found.emit.stop()


def records(*names: str, namespace: str = "storms", begin: int = 0) -> list[Stored]:
    return [Stored(name.encode(), offset, namespace) for offset, name in enumerate(names, begin)]


async def test_a_namespace_that_cannot_be_written_delays_no_other_and_nothing_is_committed_past_it(
    stage: Stage,
) -> None:
    stage.sink.problems["team"] = ActionRequired("403 Forbidden", "bind the role")
    mixed = [*records("a", "b"), *records("t1", "t2", namespace="team", begin=2), *records("c", "d", begin=4)]
    await stage.poll({0: mixed, 1: records("e", "t3")[:1]})
    await stage.wrote("a", "b", "c", "d", "e")
    assert stage.member.committed == {0: 2, 1: 1, 2: 0}
    assert stage.member.positions[0] == 2, "what waits counts as lag"
    assert "403 Forbidden" in stage.problem and "team" in stage.problem and "storms" not in stage.problem
    waiting = {"kind": "AlertStorm", "target_namespace": "team"}
    assert metrics.REGISTRY.get_sample_value("stormfold_resources_waiting", waiting) == 2
    await stage.poll({0: records("f", begin=6)})
    await stage.wrote("a", "b", "c", "d", "e", "f")
    del stage.sink.problems["team"]
    await stage.wrote("a", "b", "c", "d", "e", "f", "t1", "t2")
    assert stage.sink.written[-2:] == ["t1", "t2"]
    await stage.poll()
    assert stage.member.committed == {0: 7, 1: 1, 2: 0} and not stage.problem
    assert metrics.REGISTRY.get_sample_value("stormfold_resources_waiting", waiting) is None


async def test_partitions_that_fail_delay_no_other(stage: Stage) -> None:
    stage.sink.problems["away"] = Retry("503", after=60)
    await stage.poll({0: records("x", namespace="away"), 1: records("a")})
    await stage.wrote("a")
    await stage.poll({1: records("b", begin=1), 2: records("c")})
    await stage.wrote("a", "b", "c")
    assert stage.member.committed == {0: 0, 1: 2, 2: 1}


async def test_what_waits_in_a_partition_is_bounded_and_the_others_are_read(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emit, "WAITING_BYTES", 3 * 10_000)
    stage.sink.problems["team"] = ActionRequired("403")
    await stage.poll({0: records(*(f"t{n}" for n in range(20)), namespace="team"), 1: records("a")})
    await stage.wrote("a")
    assert stage.member.paused == {0} and "partitions 0" in stage.problem
    stage.sink.problems.clear()
    await stage.wrote("a", *(f"t{n}" for n in range(20)))
    await stage.poll()
    assert stage.member.paused == set()


async def test_slow_failures_of_a_namespace_take_one_slot_at_a_time() -> None:
    stage = Stage(partitions=8)
    await stage.begin()
    stage.sink.problems["team"] = Retry("timeout")
    await stage.poll({p: records(f"t{p}", namespace="team") for p in range(8)})
    await until(lambda: stage.problem, what="it is blocked")
    await asyncio.sleep(0.1)
    stage.sink.most = 0
    await asyncio.sleep(0.2)
    assert stage.sink.most == 1
    await stage.emit.stop()


async def test_a_namespace_is_checked_before_it_is_written_and_checks_hold_up_no_other(stage: Stage) -> None:
    """Under a definition of another version every resource would become a dead letter."""
    stage.sink.unchecked["team"] = ActionRequired("the definition in the cluster differs", "apply it")
    await stage.poll({0: [*records("t", namespace="team"), *records("a", begin=1)]})
    await stage.wrote("a")
    assert "differs (namespace team)" in stage.problem
    stage.sink.unchecked.clear()
    await stage.wrote("a", "t")
    checks = len(stage.sink.checked)
    await stage.poll({0: records("b", begin=2)})
    await stage.wrote("a", "t", "b")
    assert len(stage.sink.checked) == checks


async def test_problems_are_reported_before_the_first_record(stage: Stage) -> None:
    stage.sink.unchecked["storms"] = ActionRequired("403 Forbidden", "bind the role")
    await stage.poll()
    await until(lambda: stage.problem == "403 Forbidden (namespace storms)", what="it is reported")
    assert stage.health.reported["emit"].hint == "bind the role"
    stage.sink.unchecked.clear()

    async def recovered() -> bool:
        await stage.poll()
        return not stage.problem

    await until(recovered, what="the check is repeated")


async def test_aggregates_that_become_no_resource_wait_for_nothing(stage: Stage) -> None:
    stage.sink.problems["storms"] = ActionRequired("403")
    await stage.poll({0: [Stored(b"i", 0, record_class="Isolated"), Stored(b"s", 1)]})
    await stage.poll()
    assert stage.member.committed[0] == 1


async def test_the_end_of_a_partition_is_reached_only_when_everything_is_written(stage: Stage) -> None:
    """The marker of a transaction is behind the last record."""
    stage.sink.open.clear()
    await stage.poll({0: records("a")}, {0: 2})
    assert stage.member.positions[0] == 0
    stage.sink.open.set()
    await stage.wrote("a")
    await stage.poll()
    assert stage.member.committed[0] == 2


async def test_a_drain_finishes_the_writes_in_progress_and_commits_them(stage: Stage) -> None:
    """Blocked lanes are not waited for."""
    stage.sink.problems["team"] = Retry("503", after=60)
    stage.sink.open.clear()
    await stage.poll({0: records("t", namespace="team"), 1: records("a", "b")})
    await until(lambda: stage.problem, what="a lane is blocked")
    drained = asyncio.create_task(stage.emit.commit())
    await asyncio.sleep(0.05)
    assert not drained.done()
    stage.sink.open.set()
    await drained
    assert stage.sink.written == ["a"]
    assert stage.member.committed == {0: 0, 1: 1, 2: 0}


async def test_nothing_is_polled_while_a_write_hangs_so_that_health_notices(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emit, "HANG_SECONDS", 0.05)
    stage.sink.open.clear()
    await stage.poll({0: records("a")})
    await asyncio.sleep(0.1)
    polling = asyncio.create_task(stage.poll())
    await asyncio.sleep(0.1)
    assert not polling.done()
    stage.sink.open.set()
    await polling
    await stage.wrote("a")


async def test_an_unexpected_error_is_raised_by_the_next_poll_and_a_new_generation_begins_cleanly(
    stage: Stage,
) -> None:
    stage.sink.problems["team"] = ActionRequired("403")
    await stage.poll({0: records("t", namespace="team"), 1: records("defect"), 2: records("a")})

    async def raised() -> bool:
        try:
            await stage.poll()
        except RuntimeError as error:
            return str(error) == "a defect"
        return False

    await until(raised, what="the error is raised")
    stage.sink.problems.clear()
    await stage.begin()
    assert stage.sink.written == ["a"]
    await stage.poll({1: records("b", begin=1)})
    await stage.wrote("a", "b")
    assert not stage.problem


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"?", "not a storm"),
        (b"[]", "not a storm"),
        (b'{"metadata": {"name": "n"}, "spec": {}}', "not a storm"),
        (b'{"metadata": {"name": "other", "namespace": "storms"}, "spec": {"class": "Isolated"}}', "the key is not"),
    ],
)
def test_a_record_that_is_no_storm_is_not_skipped(value: bytes, reason: str) -> None:
    record: Any = type("Record", (), {"key": b"n", "value": value})()
    assert STORMS.namespace_of(record) is not None
    with pytest.raises(DeadLetter, match=reason):
        STORMS.decode(record)


def test_the_configuration_decides_what_is_published_and_where() -> None:
    record: Any = Stored(b"n", namespace="ops", record_class="Isolated")
    assert STORMS.namespace_of(record) is None and INCIDENTS.namespace_of(record) == "ops"
    assert (STORMS.namespaces, INCIDENTS.namespaces) == (["storms"], ["storms"])
    text = "publish: [Isolated]\nroutes: [{name: a, namespace: ops}]\nincidents: {retention: 2d, max_incidents: 7}\n"
    storms, incidents = emitted(kinds.STORMS, text), emitted(kinds.INCIDENTS, text)
    assert storms.namespaces == ["ops"] and storms.namespace_of(record) == "ops"
    assert incidents.namespaces == [] and incidents.namespace_of(record) is None
    assert (incidents.retention, incidents.limit) == (172_800_000, 7)
    off = emitted(kinds.INCIDENTS, "incidents: off\n")
    assert off.namespaces == [] and off.namespace_of(record) == "ops"
