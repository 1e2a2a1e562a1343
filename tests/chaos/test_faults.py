"""Faults report whether they struck, and two faults of a turn overlap."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stormfold.local.process import HOST
from tests.chaos import run
from tests.chaos.faults import FAULTS
from tests.chaos.faults.fault import Fault, Proof, counts_more, known, slowed, stopped
from tests.chaos.faults.network import draw_ways, kafka_ways
from tests.chaos.run import Strike, Turn
from tests.chaos.toxiproxy import Proxy, Toxiproxy


async def _ask(proof: Proof) -> bool:
    return await proof()


def test_a_stopped_process_is_recognized() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            assert not asyncio.run(_ask(stopped(process.pid)))
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            assert asyncio.run(_ask(stopped(process.pid)))
        finally:
            process.kill()


async def test_a_way_is_slowed_if_its_server_answers_late_or_not_at_all() -> None:
    seconds = 0.0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await asyncio.sleep(seconds)
        writer.write(b"+PONG\r\n")
        writer.close()

    way = Proxy(cast("Toxiproxy", None), "way")
    broken = slowed([way], b"PING\r\n")
    assert await broken()
    async with await asyncio.start_server(answer, *way.address.split(":")):
        assert way.address.startswith(HOST)
        assert min([await way.answers(b"PING\r\n") for _ in range(5)]) < 0.09
        seconds = 0.2
        assert await broken()
        seconds = 30.0
        assert await broken()


async def test_the_metrics_of_a_worker_that_started_during_the_fault_count_from_zero() -> None:
    counts: dict[str, float | None] = {"old": 3.0}

    class Slot:
        def __init__(self, http: str) -> None:
            self.http = http

        async def metric(self, _name: str) -> float | None:
            return counts[self.http]

    slots: list[Any] = [Slot("old")]
    grown = await counts_more(lambda: slots, "metric")
    assert not await grown()
    slots, counts["new"] = [Slot("new")], 0.0
    assert not await grown()
    counts["new"] = None
    assert not await grown()
    counts["new"] = 1.0
    assert await grown()


async def test_a_worker_that_did_not_answer_before_the_fault_proves_nothing() -> None:
    counts = [None, 5.0]

    async def metric(_name: str) -> float | None:
        return counts.pop(0)

    slots: list[Any] = [SimpleNamespace(http="frozen", metric=metric)]
    assert not await (await counts_more(lambda: slots, "metric"))()


def test_a_network_fault_hits_one_worker_or_all_and_one_broker_or_all() -> None:
    """The worker that writes to the API server may be the one."""
    slots = [SimpleNamespace(kafka=[f"{worker}{broker}" for broker in "12"]) for worker in "abce"]
    world = cast("Any", SimpleNamespace(usual=slots[:3], emitters=slots[3:]))
    hit = {"".join(cast("list[str]", draw_ways(world, Random(seed), kafka_ways))) for seed in range(300)}
    alone = {worker + broker for worker in "abce" for broker in "12"}
    both = {f"{worker}1{worker}2" for worker in "abce"}
    assert hit == alone | both | {"a1b1c1e1", "a2b2c2e2", "a1b1c1e1a2b2c2e2"}


def fault(
    name: str, part: str, events: list[str], proof: Callable[[], Proof | None], settles: float | None = None
) -> Fault:
    """Returns a fault that only records its begin and end in `events`."""

    @asynccontextmanager
    async def act(*_: Any) -> AsyncIterator[Proof | None]:
        events.append(f"{name} begins")
        yield proof()
        events.append(f"{name} ends")

    async def settle(_: Any) -> None:
        await asyncio.sleep(settles or 0.0)
        events.append(f"{name} has settled")

    return Fault(part, name, (0, 0), act, settles=None if settles is None else settle)


class FakeWatch:
    """A watch over a pipeline that recovers a fixed time (s) after each disturbance."""

    def __init__(self, events: list[str], recovers: float = 0.0) -> None:
        self._events = events
        self._recovers = recovers
        self.longest_stop = lambda begin, end: end - begin

    def before(self) -> Any:
        return SimpleNamespace(unread=0)

    async def recovered(self, _before: Any, since: float, *_: Any) -> float:
        await asyncio.sleep(max(0.0, since + self._recovers - time.monotonic()))
        self._events.append("recovered")
        return since + self._recovers


PLACE = cast("Any", SimpleNamespace(producer=SimpleNamespace(sent=0)))


@pytest.mark.parametrize("struck", [True, False])
async def test_the_first_fault_lasts_until_the_second_has_begun(monkeypatch: pytest.MonkeyPatch, struck: bool) -> None:
    """The outcome records whether both struck."""
    events: list[str] = []
    monkeypatch.setitem(FAULTS, "first", fault("first", "redis", events, lambda: None))
    monkeypatch.setitem(FAULTS, "second", fault("second", "kafka", events, lambda: known(struck)))
    turn = Turn(0.0, (Strike("first", 0.0, 0.0, 1), Strike("second", 0.2, 0.0, 1)))
    outcome = await run._take(turn, PLACE, cast("Any", FakeWatch(events)), 1)
    assert events.index("second begins") < events.index("first ends")
    assert outcome.struck == struck


async def test_recovery_is_measured_from_the_last_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn also waits until servers have settled and the pipeline has recovered again; stops count until then."""
    events: list[str] = []
    monkeypatch.setitem(FAULTS, "brief", fault("brief", "kafka", events, lambda: None, settles=0.6))
    monkeypatch.setitem(FAULTS, "longer", fault("longer", "redis", events, lambda: None))
    turn = Turn(0.0, (Strike("brief", 0.0, 0.0, 1), Strike("longer", 0.0, 0.2, 1)))
    outcome = await run._take(turn, PLACE, cast("Any", FakeWatch(events, recovers=0.1)), 1)
    assert events[-5:] == ["brief ends", "longer ends", "recovered", "brief has settled", "recovered"]
    assert outcome.recovery == pytest.approx(0.1)
    assert 0.65 < outcome.stop < 1.5


async def test_servers_that_never_settle_fail_the_run(monkeypatch: pytest.MonkeyPatch) -> None:

    async def settle(_: Any) -> None:
        raise AssertionError("preferred leaders do not lead")

    monkeypatch.setitem(FAULTS, "lasting", fault("lasting", "kafka", [], lambda: None)._replace(settles=settle))
    turn = Turn(0.0, (Strike("lasting", 0.0, 0.0, 1),))
    with pytest.raises(AssertionError, match="do not lead"):
        await run._take(turn, PLACE, cast("Any", FakeWatch([])), 1)
