"""Toxiproxy between a worker and a server: it cuts connections, slows them, or drops their data.

It is built from its Go module once and kept in the user's cache.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from stormfold.local.process import HOST, ServerProcess, cache_dir, free_port
from tests.support.gobuild import build

VERSION = "v2.12.0"


class Toxiproxy(ServerProcess):
    """The process of all proxies. Raises `CannotBuild` if it cannot be built."""

    name = "toxiproxy"
    ready = b"Starting Toxiproxy HTTP server"

    def prepare(self) -> Sequence[str]:
        """Builds the program first where it is missing."""
        return [str(program()), "-host", HOST, "-port", str(self.port)]


def program() -> Path:
    """Returns the cached program, which is built first where it is missing. Raises `CannotBuild`."""
    path = cache_dir() / "toxiproxy" / VERSION / "server"
    return build(path, f"github.com/Shopify/toxiproxy/v2/cmd/server@{VERSION}")


class Proxy:
    """A way to one server, with a port of its own. Toxiproxy must run from `open` on."""

    def __init__(self, toxiproxy: Toxiproxy, name: str) -> None:
        self._toxiproxy = toxiproxy
        self._name = name
        self.address = f"{HOST}:{free_port()}"

    async def open(self, upstream: str) -> None:
        """Starts to forward connections to `upstream`."""
        await self._ask("POST", "", {"name": self._name, "listen": self.address, "upstream": upstream})

    async def point(self, upstream: str) -> None:
        """Forwards connections to another server; open ones are cut."""
        await self._ask("POST", f"/{self._name}", {"upstream": upstream})

    async def cut(self) -> None:
        """Closes all connections and refuses new ones."""
        await self._ask("POST", f"/{self._name}", {"enabled": False})

    async def mend(self) -> None:
        """Forwards connections again, without toxics."""
        for toxic in await self._ask("GET", f"/{self._name}/toxics"):
            await self._ask("DELETE", f"/{self._name}/toxics/{toxic['name']}")
        await self._ask("POST", f"/{self._name}", {"enabled": True})

    async def poison(self, kind: str, stream: str = "downstream", **attributes: int) -> None:
        """Adds a toxic to the data from the server or, with `upstream`, to the data to it."""
        await self._ask("POST", f"/{self._name}/toxics", {"type": kind, "stream": stream, "attributes": attributes})

    async def answers(self, request: bytes) -> float:
        """Returns the seconds until the server answers a request; infinite if it takes more than one second."""
        host, port = self.address.rsplit(":", 1)
        asked = time.monotonic()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_connection(host, int(port))
                try:
                    writer.write(request)
                    if await reader.read(1):
                        return time.monotonic() - asked
                finally:
                    writer.close()
        return math.inf

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        url = f"http://{self._toxiproxy.address}/proxies{path}"
        async with aiohttp.ClientSession() as session, session.request(method, url, json=body) as answer:
            text = await answer.text()
            assert answer.status < 300, f"{method} {path}: {answer.status} {text}"
            return await answer.json(content_type=None) if text else None
