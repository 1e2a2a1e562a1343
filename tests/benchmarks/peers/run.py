"""Runs the peers and stormfold in turns: each one, when it is warm, processes a backlog."""

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import aiohttp

from stormfold.errors import ActionRequired
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.status.snapshot import STAGES
from tests.benchmarks.bench import PARTITIONS, Bench, assigned, counted, start
from tests.benchmarks.peers.programs import HERE, OURS, PROGRAMS, Load, Program
from tests.benchmarks.results import Peer, Peers, Taken
from tests.benchmarks.throughput import FOLDED, filled
from tests.support.servers import until
from tests.support.workers import Workers

ROOT = HERE.parents[2]
QUICK = Load(10, 10, 200, 1_000)
TIMEOUT = 300.0
WINDOW_MS = 300_000
"""Length of a tumbling window."""

Key = tuple[str, int]
"""Name of a program, members of a group."""


async def measure(bench: Bench) -> Peers:
    """Measures all programs in turns; those that are not available are reported."""
    programs = [OURS, *bench.size(PROGRAMS, PROGRAMS[:1])]
    runs: defaultdict[Key, list[Taken]] = defaultdict(list)
    missing: dict[str, str] = {}
    for turn in range(bench.rounds):
        for program in programs:
            for load in bench.size(program.loads, [QUICK]):
                bench.progress(f"peers, round {turn + 1}: {program.name}, {load.members:,} members of a group")
                try:
                    if program.name not in missing:
                        taken = _ours(bench, load) if program is OURS else _theirs(bench, program, load)
                        runs[program.name, load.members].append(await taken)
                except ActionRequired as error:
                    missing[program.name] = str(error)
    return Peers(
        bench.run(),
        [
            Peer(p.name, p.version, p.killed, p.work, members, runs[p.name, members], missing.get(p.name, ""))
            for p in programs
            for members, *_ in bench.size(p.loads, [QUICK])
        ],
    )


async def _ours(bench: Bench, load: Load) -> Taken:
    settings = await bench.pipeline()
    async with aiohttp.ClientSession() as session:
        with Workers(settings, bench.folder) as running:
            processes, addresses = start(running, 1, {})
            await assigned(session, addresses, len(STAGES) * PARTITIONS)

            async def done() -> int:
                return int(await counted(session, addresses, FOLDED))

            taken = await _taken(bench, settings, processes[0], done, load)
    _compare(OURS, await _most_members(settings), load)
    return taken


async def _most_members(settings: Settings) -> int:
    """Returns the number of members of the largest bucket of one open group."""
    async with connect(settings) as redis:
        store = Store(redis, settings.redis_prefix)
        version = await store.version()
        assert version is not None
        group, *_ = await store.open_buckets(version)
        details = await store.details(version, [(group.group, bucket) for bucket in group.buckets])
    return max(len(detail.members) for detail in details)


def _compare(program: Program, members: int, load: Load) -> None:
    if program.work.keeps_members and members != load.members:
        raise RuntimeError(f"{program.name} has {members} members in its largest window, not {load.members}")


async def _theirs(bench: Bench, program: Program, load: Load) -> Taken:
    settings = await bench.pipeline()
    folder = bench.folder / f"peer-{settings.redis_prefix}"
    folder.mkdir()
    command = await asyncio.to_thread(program.command, folder)
    environment = {
        "KAFKA": settings.kafka_bootstrap_servers, "TOPIC": settings.alerts_topic, "PARTITIONS": str(PARTITIONS),
        "REDIS": settings.redis_url, "WINDOWS": program.work.windows, "FOLDER": str(folder),
        "MEMBERS": str(int(program.work.keeps_members)), "PYTHONPATH": str(ROOT), **program.more,
    }  # fmt: skip
    with _running(command, folder, environment) as (process, progress):

        async def done() -> int:
            if process.poll() is not None:
                raise RuntimeError(f"{program.name} ended: {(folder / 'log').read_text()[-2000:]}")
            return progress.done

        # A tumbling window that ended between the alerts would be empty when they are measured.
        end = int(time.time() * 1000) // WINDOW_MS * WINDOW_MS - WINDOW_MS // 2
        more = {"until": end} if program.work.windows == "tumbling" else {}
        taken = await _taken(bench, settings, process, done, load, **more)
    _compare(program, progress.members, load)
    return taken


async def _taken(
    bench: Bench, settings: Settings, process: "subprocess.Popen[bytes]", done: Callable[[], Awaitable[int]],
    load: Load, **more: int,
) -> Taken:  # fmt: skip
    """Warms the process, freezes it while the backlog is published, and measures until it has counted the backlog."""
    series = load.members * load.groups
    await filled(settings, load.warm, min(series, load.warm), load.groups, **more)()

    async def warmed() -> bool:
        return await done() >= load.warm

    await until(warmed, TIMEOUT, "the process is warm")
    process.send_signal(signal.SIGSTOP)
    await filled(settings, load.alerts, min(series, load.alerts), load.groups, **more)()
    process.send_signal(signal.SIGCONT)
    return await bench.watched([process.pid], done, load.warm + load.alerts, load.alerts)


class _Progress(threading.Thread):
    """The number of alerts that a peer has counted, and of members of its largest window, as it prints them."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self.done = 0
        self.members = 0

    def run(self) -> None:
        """Reads until the peer ends."""
        for line in self._pipe:
            if line.startswith(b"done "):
                self.done, self.members = map(int, line.split()[1:])


@contextmanager
def _running(
    command: Sequence[str], folder: Path, environment: dict[str, str]
) -> "Iterator[tuple[subprocess.Popen[bytes], _Progress]]":
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | environment, stdout=subprocess.PIPE, stderr=log
        )
        assert process.stdout is not None
        progress = _Progress(process.stdout)
        progress.start()
        try:
            yield process, progress
        finally:
            process.kill()
            process.wait()
            progress.join()
