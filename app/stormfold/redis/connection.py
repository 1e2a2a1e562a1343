"""Connections to Redis: they end with a cancelled task, reload their certificates, and use the current primary only."""

import asyncio
import re
from collections.abc import Iterable, Mapping
from typing import Any

from redis import exceptions
from redis.asyncio import Connection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelManagedConnection

from stormfold.redis.errors import NotPrimary
from stormfold.redis.tls_probe import check_tls
from stormfold.tls import ReloadingSSLContext

_FIELD = re.compile(rb"^(role|master_host|master_port|master_replid):([^\r\n]*)", re.MULTILINE)
_READ_ONLY = "READONLY You can't write against a read only replica"
"""In the error of a script before Redis 7, whose code is not that of the command that failed."""


class Primary:
    """The server that all connections of one client use.

    It is recognized by its replication id, which a promoted replica changes. When one connection finds another server
    at the address, the others connect again before their next command: two servers are never used at the same time.
    """

    def __init__(self) -> None:
        self.generation = 0
        """Counts the changes of the server."""
        self._replication_id: str | None = None

    def found(self, replication_id: str | None) -> None:
        """Notes the server of a new connection."""
        if self._replication_id not in (None, replication_id):
            self.generation += 1
        self._replication_id = replication_id

    def lost(self) -> None:
        """Notes that the server is not the primary any more."""
        self._replication_id = None
        self.generation += 1


class Interruptible(AbstractConnection):
    """A connection that ends when the task that waits for it is cancelled.

    redis-py sends with `asyncio.wait_for`, which before Python 3.12 loses a cancellation that arrives together with
    the end of the awaited operation, so that the cancelled task would run without end.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        if not self.is_connected:
            await self.reconnect()
        if check_health:
            await self.check_health()  # type: ignore[no-untyped-call]
        seconds, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(seconds):
                await super().send_packed_command(command, check_health=False)
        except TimeoutError as error:
            raise exceptions.TimeoutError("Timeout writing to socket") from error
        finally:
            self.socket_timeout = seconds

    async def reconnect(self) -> None:
        """Connects before a command is sent."""
        await self.connect_check_health(check_health=False)

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        try:
            await super().connect_check_health(check_health, retry_socket_connect)
        except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
            if type(error) in (exceptions.ConnectionError, exceptions.TimeoutError) and isinstance(self, Connection):
                await check_tls(self.host, self.port, isinstance(self, Encrypted))
            raise


class PrimaryConnection(Interruptible):
    """A connection that refuses replicas: at its beginning, and when its server becomes one.

    Raises `NotPrimary`, a `ConnectionError`: the client then connects again and resolves the address again.
    """

    def __init__(self, primary: Primary, **options: Any) -> None:
        super().__init__(**options)
        self._primary = primary
        self._generation: int | None = None
        """None until its server is known to be a primary."""
        self._begun = 0
        """Generation when it began to connect."""
        self._check_at = 0.0

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        if not self.is_connected:
            self._begun = self._primary.generation
        await super().connect_check_health(check_health, retry_socket_connect)

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        self._generation = None
        await super().on_connect_check_health(check_health=check_health)
        await self._check_role(self._begun)

    async def check_health(self) -> None:
        """Asks for the role where the last answer is older than `health_check_interval`, also between other commands:
        a demoted server still answers reads."""
        due = self.health_check_interval and asyncio.get_running_loop().time() > self._check_at
        if due and self._generation is not None:
            await self._check_role(self._generation)

    async def _check_role(self, begun: int) -> None:
        """Raises `ConnectionError` also if the server of the others changed since the generation `begun`."""
        self._generation = None
        await self.send_command("INFO", "replication", check_health=False)
        info = await self.read_response(disable_decoding=True)
        found = {name.decode(): value.decode() for name, value in _FIELD.findall(info)}
        if found.get("role") == "slave":
            self._primary.lost()
            await self.disconnect(nowait=True)
            raise NotPrimary(self._host_error(), f"{found.get('master_host')}:{found.get('master_port')}")
        if begun != self._primary.generation:
            await self.disconnect(nowait=True)
            raise exceptions.ConnectionError("the primary changed at the same time")
        self._primary.found(found.get("master_replid"))
        self._generation = self._primary.generation
        self._check_at = asyncio.get_running_loop().time() + self.health_check_interval

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        if self.is_connected and self._generation not in (None, self._primary.generation):
            await self.disconnect()
        await super().send_packed_command(command, check_health)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except exceptions.BusyLoadingError:
            # It may be loading the data of another primary.
            self._primary.lost()
            raise
        except exceptions.ResponseError as error:
            if not _is_of_replica(error):
                raise
            self._primary.lost()
            await self.disconnect(nowait=True)
            raise NotPrimary(self._host_error()) from error


def _is_of_replica(error: exceptions.ResponseError) -> bool:
    return isinstance(error, exceptions.ReadOnlyError | exceptions.MasterDownError) or _READ_ONLY in str(error)


class Encrypted(Connection):
    """A TLS connection that reloads its certificate files; redis-py's `SSLConnection` does not."""

    def __init__(self, tls: ReloadingSSLContext, **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._tls}


class Plain(Interruptible, Connection):
    """A connection to a Sentinel or to a node of a cluster, without TLS."""


class Tls(Interruptible, Encrypted):
    """The same with TLS."""


class PrimaryPlain(PrimaryConnection, Connection):
    """A connection to a primary without TLS."""


class PrimarySocket(PrimaryConnection, UnixDomainSocketConnection):
    """The same through a socket."""


class PrimaryTls(PrimaryConnection, Encrypted):
    """The same with TLS."""


class SentinelPlain(PrimaryConnection, SentinelManagedConnection):
    """A connection to the primary that the Sentinels know, without TLS."""

    async def reconnect(self) -> None:
        """Asks the Sentinels again."""
        await self.connect()  # type: ignore[no-untyped-call]


class SentinelTls(SentinelPlain, Encrypted):
    """The same with TLS."""
