"""A profile of a worker that processes a backlog, by py-spy."""

import asyncio
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import aiohttp

from stormfold.status.snapshot import STAGES
from tests.benchmarks.bench import PARTITIONS, TIMEOUT, Bench, assigned, counted, start
from tests.benchmarks.results import Profile
from tests.benchmarks.throughput import FOLDED, filled
from tests.support.servers import until
from tests.support.workers import Workers

RATE = 200
"""Samples a second."""
_LEAF = re.compile(r"\(([^()]+?)(?::\d+)?\)$")


async def measure(bench: Bench) -> Profile:
    """Measures once, because shares vary less than times."""
    alerts, series = bench.size((720_000, 20_000), (6_000, 500))
    bench.progress("profile")
    settings = await bench.pipeline()
    path = bench.folder / "profile.txt"
    async with aiohttp.ClientSession() as session:
        with Workers(settings, bench.folder) as running:
            (worker,), addresses = start(running, 1, {})
            await assigned(session, addresses, len(STAGES) * PARTITIONS)
            worker.send_signal(signal.SIGSTOP)
            await filled(settings, alerts, series)()
            worker.send_signal(signal.SIGCONT)
            spy = await asyncio.create_subprocess_exec(
                *(_spy(), "record", "--pid", str(worker.pid), "--rate", str(RATE), "--format", "raw", "--output", path),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

            async def done() -> bool:
                return await counted(session, addresses, FOLDED) >= alerts

            await until(done, TIMEOUT, "the backlog is folded")
            spy.send_signal(signal.SIGINT)
            await spy.wait()
    samples = by_file(path.read_text())
    total = sum(samples.values())
    return Profile(bench.run(), total, {file: count / total for file, count in samples.most_common()})


def _spy() -> str:
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent))
    assert found, "py-spy is among the development dependencies"
    return found


def by_file(stacks: str) -> Counter[str]:
    """Counts samples by the file of the innermost frame."""
    found: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        leaf = _LEAF.search(stack.rpartition(";")[2])
        found[leaf[1] if leaf else "?"] += int(count)
    return found
