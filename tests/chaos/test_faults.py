"""A fault that met nothing says so, and two at once are there at once."""

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
from tests.chaos.faults import FAULTS, Fault, Proof, _counts, _hit, _kafka, _known, _stopped, _unwell
from tests.chaos.run import Strike, Turn
from tests.chaos.toxiproxy import Proxy, Toxiproxy


async def _ask(proof: Proof) -> bool:
    return await proof()


def test_a_process_that_does_not_run() -> None:
    """It is stopped, or it is not."""
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            assert not asyncio.run(_ask(_stopped(process.pid)))
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            assert asyncio.run(_ask(_stopped(process.pid)))
        finally:
            process.kill()


async def test_a_way_that_nobody_answers_by() -> None:
    """A way is broken if no answer comes, or a late one."""
    seconds = 0.0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await asyncio.sleep(seconds)
        writer.write(b"+PONG\r\n")
        writer.close()

    way = Proxy(cast("Toxiproxy", None), "way")
    broken = _unwell([way], b"PING\r\n")
    assert await broken()
    async with await asyncio.start_server(answer, *way.address.split(":")):
        assert way.address.startswith(HOST)
        assert min([await way.answers(b"PING\r\n") for _ in range(5)]) < 0.09
        seconds = 0.2
        assert await broken()
        seconds = 30.0
        assert await broken()


async def test_a_worker_that_counts() -> None:
    """A worker that started meanwhile counts from nothing."""
    counts: dict[str, float | None] = {"old": 3.0}

    class Slot:
        def __init__(self, http: str) -> None:
            self.http = http

        async def told(self, _metric: str) -> float | None:
            return counts[self.http]

    slots: list[Any] = [Slot("old")]
    grown = await _counts(lambda: slots, "metric")
    assert not await grown()
    slots, counts["new"] = [Slot("new")], 0.0
    assert not await grown()
    counts["new"] = None
    assert not await grown()
    counts["new"] = 1.0
    assert await grown()


async def test_a_worker_that_did_not_answer() -> None:
    """What it had counted before nobody knows, so that nobody can say whether it counts more."""
    counts = [None, 5.0]

    async def told(_metric: str) -> float | None:
        return counts.pop(0)

    slots: list[Any] = [SimpleNamespace(http="frozen", told=told)]
    assert not await (await _counts(lambda: slots, "metric"))()


def test_whom_a_way_belongs_to() -> None:
    """One worker is cut off or all are; from one broker or from all, the same one for all of them. The worker that only
    writes to the cluster may be the one."""
    slots = [SimpleNamespace(kafka=[f"{worker}{broker}" for broker in "12"]) for worker in "abce"]
    world = cast("Any", SimpleNamespace(usual=slots[:3], emitters=slots[3:]))
    hit = {"".join(cast("list[str]", _hit(world, Random(seed), _kafka))) for seed in range(300)}
    alone = {worker + broker for worker in "abce" for broker in "12"}
    both = {f"{worker}1{worker}2" for worker in "abce"}
    assert hit == alone | both | {"a1b1c1e1", "a2b2c2e2", "a1b1c1e1a2b2c2e2"}


def fault(
    name: str, part: str, told: list[str], proof: Callable[[], Proof | None], settles: float | None = None
) -> Fault:
    """One that only tells when it comes and goes."""

    @asynccontextmanager
    async def act(*_: Any) -> AsyncIterator[Proof | None]:
        told.append(f"{name} comes")
        yield proof()
        told.append(f"{name} goes")

    async def settle(_: Any) -> None:
        await asyncio.sleep(settles or 0.0)
        told.append(f"{name} has settled")

    return Fault(part, name, (0, 0), act, settles=None if settles is None else settle)


class Seen:
    """A watch over a pipeline that is well so many seconds after it was last disturbed."""

    def __init__(self, told: list[str], recovers: float = 0.0) -> None:
        self._told = told
        self._recovers = recovers
        self.longest_stop = lambda begin, end: end - begin

    def before(self) -> Any:
        return SimpleNamespace(unread=0)

    async def recovered(self, _before: Any, since: float, *_: Any) -> float:
        await asyncio.sleep(max(0.0, since + self._recovers - time.monotonic()))
        self._told.append("well")
        return since + self._recovers


PLACE = cast("Any", SimpleNamespace(producer=SimpleNamespace(sent=0)))


@pytest.mark.parametrize("struck", [True, False])
async def test_two_at_once(monkeypatch: pytest.MonkeyPatch, struck: bool) -> None:
    """The first goes on until the second has come, however short it is; of one that struck nothing the turn knows."""
    told: list[str] = []
    monkeypatch.setitem(FAULTS, "first", fault("first", "redis", told, lambda: None))
    monkeypatch.setitem(FAULTS, "second", fault("second", "kafka", told, lambda: _known(struck)))
    turn = Turn(0.0, (Strike("first", 0.0, 0.0, 1), Strike("second", 0.2, 0.0, 1)))
    outcome = await run._take(turn, PLACE, cast("Any", Seen(told)), 1)
    assert told.index("second comes") < told.index("first goes")
    assert outcome.struck == struck


async def test_recovery_is_counted_from_the_mending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two at once the later one's, and not from when all has settled; that is waited for, and that all is well then,
    and the longest stop is looked for until then."""
    told: list[str] = []
    monkeypatch.setitem(FAULTS, "brief", fault("brief", "kafka", told, lambda: None, settles=0.6))
    monkeypatch.setitem(FAULTS, "longer", fault("longer", "redis", told, lambda: None))
    turn = Turn(0.0, (Strike("brief", 0.0, 0.0, 1), Strike("longer", 0.0, 0.2, 1)))
    outcome = await run._take(turn, PLACE, cast("Any", Seen(told, recovers=0.1)), 1)
    assert told[-5:] == ["brief goes", "longer goes", "well", "brief has settled", "well"]
    assert outcome.recovery == pytest.approx(0.1)
    assert 0.65 < outcome.stop < 1.5


async def test_what_never_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails the run, as if it were waited for inside the fault."""

    async def settle(_: Any) -> None:
        raise AssertionError("leaders are not where they belong")

    monkeypatch.setitem(FAULTS, "lasting", fault("lasting", "kafka", [], lambda: None)._replace(settles=settle))
    turn = Turn(0.0, (Strike("lasting", 0.0, 0.0, 1),))
    with pytest.raises(AssertionError, match="where they belong"):
        await run._take(turn, PLACE, cast("Any", Seen([])), 1)
