"""A fault that met nothing says so, and two at once are there at once."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.local.process import HOST
from tests.chaos import run
from tests.chaos.faults import FAULTS, Fault, Proof, _counts, _hit, _jammed, _kafka, _known, _stopped, _unwell
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


async def test_a_way_that_is_jammed() -> None:
    """On a way something waits that its end does not take, from whichever side it comes."""
    with socket.create_server((HOST, 0)) as end, socket.create_connection(end.getsockname()) as other:
        taken, _ = end.accept()
        address = "{}:{}".format(*end.getsockname())
        from_here, from_there = (
            Proxy(cast("Toxiproxy", None), "from here"),
            Proxy(cast("Toxiproxy", None), "from there"),
        )
        from_here.address = from_there.upstream = address
        jammed = _jammed([from_here]), _jammed([from_there])
        with taken:
            assert [await proof() for proof in jammed] == [False, False]
            other.sendall(b"for the end")
            assert [await proof() for proof in jammed] == [True, False]
            taken.recv(100)
            taken.sendall(b"for the other")
            assert [await proof() for proof in jammed] == [False, True]


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


def fault(name: str, part: str, told: list[str], proof: Callable[[], Proof | None]) -> Fault:
    """One that only tells when it comes and goes."""

    @asynccontextmanager
    async def act(*_: Any) -> AsyncIterator[Proof | None]:
        told.append(f"{name} comes")
        yield proof()
        told.append(f"{name} goes")

    return Fault(part, name, (0, 0), act)


@pytest.mark.parametrize("struck", [True, False])
async def test_two_at_once(monkeypatch: pytest.MonkeyPatch, struck: bool) -> None:
    """The first goes on until the second has come, however short it is; of one that struck nothing the turn knows."""
    told: list[str] = []
    monkeypatch.setitem(FAULTS, "first", fault("first", "redis", told, lambda: None))
    monkeypatch.setitem(FAULTS, "second", fault("second", "kafka", told, lambda: _known(struck)))

    async def recovered(*_: Any) -> float:
        return 0.0

    watch = SimpleNamespace(before=lambda: SimpleNamespace(unread=0), recovered=recovered, longest_stop=lambda *_: 0.0)
    place = SimpleNamespace(producer=SimpleNamespace(sent=0))
    turn = Turn(0.0, (Strike("first", 0.0, 0.0, 1), Strike("second", 0.2, 0.0, 1)))
    outcome = await run._take(turn, cast("Any", place), cast("Any", watch), 1)
    assert told.index("second comes") < told.index("first goes")
    assert outcome.struck == struck
