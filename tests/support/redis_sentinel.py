"""A primary, a replica and three Sentinels, with credentials of their own for data and Sentinels."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from stormfold.local.process import HOST, ServerProcess
from stormfold.local.redis import find_servers
from tests.support.redis_servers import OwnRedis, command
from tests.support.servers import until

SERVICE = "alerts"
DATA_PASSWORD, SENTINEL_PASSWORD = "data-password", "sentinel-password"
DOWN_MS = 1_000
"""Without an answer for this long, a Sentinel takes the primary for down."""


class Sentinel(ServerProcess):
    """One Sentinel."""

    name = "sentinel"
    ready = b"+monitor master"

    def __init__(
        self, data_dir: Path, primary: int, quorum: int, *options: str, tls: Mapping[str, Path] | None = None
    ) -> None:
        """`primary` is its port; with `tls`, options and their files, both use TLS."""
        super().__init__(data_dir)
        self._lines = [
            f"sentinel monitor {SERVICE} {HOST} {primary} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_MS}",
            f"sentinel failover-timeout {SERVICE} 6000",
            *options,
            *(f"{name} {path}" for name, path in (tls or {}).items()),
        ]
        self._tls = bool(tls)

    def prepare(self) -> Sequence[str]:
        """Writes the configuration, which the Sentinel itself changes later."""
        path = self.data_dir / "sentinel.conf"
        if not path.exists():
            ports = [f"tls-port {self.port}", "port 0", "tls-replication yes"] if self._tls else [f"port {self.port}"]
            path.write_text("\n".join([*ports, f"bind {HOST}", *self._lines, ""]))
        return [str(find_servers()[0].path), str(path), "--sentinel"]


class Sentinels:
    """Two servers and three Sentinels."""

    def __init__(self, folder: Path) -> None:
        self.servers = [
            OwnRedis(folder / f"server-{n}", requirepass=DATA_PASSWORD, repl_diskless_sync_delay="0") for n in range(2)
        ]
        self.servers[0].start()
        lines = [
            f"requirepass {SENTINEL_PASSWORD}",
            f"sentinel auth-user {SERVICE} observer",
            f"sentinel auth-pass {SERVICE} observer",
        ]
        self.sentinels = [Sentinel(folder / f"sentinel-{n}", self.servers[0].port, 2, *lines) for n in range(3)]

    @property
    def url(self) -> str:
        """The URL for workers."""
        return f"redis+sentinel://{','.join(sentinel.address for sentinel in self.sentinels)}/{SERVICE}?db=0"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of workers for Redis."""
        passwords = {"redis_password": DATA_PASSWORD, "redis_sentinel_password": SENTINEL_PASSWORD}
        return {"redis_url": self.url, **passwords}

    def open(self, server: OwnRedis) -> Redis:
        """A client of one of the servers."""
        return Redis.from_url(server.url, password=DATA_PASSWORD)

    async def start(self) -> None:
        """Starts the rest, and waits until a failover is possible."""
        primary, replica = self.servers
        await asyncio.to_thread(replica.start)
        for server in self.servers:
            await self.admit(server)
        async with self.open(replica) as client:
            await client.replicaof(HOST, primary.port)
        for sentinel in self.sentinels:
            await asyncio.to_thread(sentinel.start)
        await self.until_ready(primary)

    async def admit(self, server: OwnRedis) -> None:
        """Makes Sentinels and the other server a user of their own, so that a test can part them from this server."""
        async with self.open(server) as client:
            await command(client, "ACL", "SETUSER", "observer", "on", ">observer", "+@all", "~*", "&*")
            await client.config_set("masteruser", "observer")
            await client.config_set("masterauth", "observer")

    async def fail_over(self) -> None:
        """Asks a Sentinel for a failover."""
        async with Redis(host=HOST, port=self.sentinels[0].port, password=SENTINEL_PASSWORD) as client:
            await command(client, "SENTINEL", "FAILOVER", SERVICE)

    async def until_ready(self, primary: OwnRedis) -> None:
        """Waits until all Sentinels know this primary, a replica that is ready, and each other."""

        async def ready() -> bool:
            for sentinel in self.sentinels:
                async with Redis(host=HOST, port=sentinel.port, password=SENTINEL_PASSWORD) as client:
                    state: dict[str, Any] = (await client.sentinel_masters())[SERVICE]  # type: ignore[call-overload]
                    replicas: Any = await client.sentinel_slaves(SERVICE)
                if (state["port"], state["num-other-sentinels"], state["is_odown"]) != (primary.port, 2, False):
                    return False
                if not any(
                    replica["flags"] == "slave" and replica["master-link-status"] == "ok" for replica in replicas
                ):
                    return False
            return True

        await until(ready, 60.0, f"the Sentinels know the primary {primary.address} and its replica")

    async def until_promoted(self, server: OwnRedis) -> None:
        """Waits until a server is a primary; while a Sentinel changes its role, it closes connections."""

        async def promoted() -> bool:
            async with self.open(server) as client:
                with suppress(RedisConnectionError):
                    return bool((await client.info("replication"))["role"] == "master")
            return False

        await until(promoted, 60.0, f"{server.address} is the primary")

    async def part(self, server: OwnRedis, parted: bool) -> None:
        """Parts a server from the Sentinels and from its replica, but not from workers; or ends that."""
        async with self.open(server) as client:
            await command(client, "ACL", "SETUSER", "observer", "off" if parted else "on")
            if parted:
                await command(client, "CLIENT", "KILL", "USER", "observer")
                await command(client, "CLIENT", "KILL", "TYPE", "replica")

    def stop(self) -> None:
        """Kills everything."""
        for server in (*self.sentinels, *self.servers):
            server.kill()
