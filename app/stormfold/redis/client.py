"""The client of Redis: one connection pool from the settings, with credentials and TLS."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from redis import exceptions
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from stormfold.errors import ActionRequired
from stormfold.settings import Settings
from stormfold.tls import ReloadingSSLContext

TIMEOUT = 5.0
"""Seconds for a reply or a connection; afterwards a script may be resent, which its positions reveal."""


class _Interruptible(AbstractConnection):
    """A connection that ends when the task that waits for it is cancelled.

    redis-py sends with `asyncio.wait_for`, which before Python 3.12 loses a cancellation that arrives together with
    the end of the awaited operation, so that the cancelled task would run without end.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
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


class _PlainConnection(_Interruptible, Connection):
    pass


class _LocalConnection(_Interruptible, UnixDomainSocketConnection):
    pass


class _EncryptedConnection(_Interruptible, Connection):
    """A TLS connection that reloads its certificate files; redis-py's `SSLConnection` does not."""

    def __init__(self, tls: ReloadingSSLContext, **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._tls}


_CONNECTIONS = {
    Connection: _PlainConnection,
    SSLConnection: _EncryptedConnection,
    UnixDomainSocketConnection: _LocalConnection,
}
"""Replacement of each of redis-py's connection classes."""


def connect(settings: Settings) -> Redis:
    """A client for the settings; connects on first use. Raises `ActionRequired` for TLS files that cannot be used."""
    options: dict[str, Any] = {
        "decode_responses": False,
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "health_check_interval": 30,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=1),
        **parse_url(settings.redis_url),
    }
    if settings.redis_username is not None:
        options["username"] = settings.redis_username
    if settings.redis_password is not None:
        options["password"] = settings.redis_password.get_secret_value()
    scheme = options.pop("connection_class", Connection)
    if scheme is SSLConnection:
        options["tls"] = _tls(settings)
    return Redis.from_pool(ConnectionPool(connection_class=_CONNECTIONS[scheme], **options))


def _tls(settings: Settings) -> ReloadingSSLContext:
    try:
        return ReloadingSSLContext(settings.redis_ssl_cafile, settings.redis_ssl_certfile, settings.redis_ssl_keyfile)
    except OSError as error:
        raise ActionRequired(
            f"cannot use the TLS files for Redis: {error}", "check the STORMFOLD_REDIS_SSL_… files"
        ) from error
