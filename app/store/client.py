"""How to reach Redis: one connection pool from the settings, with credentials and TLS as given."""

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from app.errors import Stop
from app.settings import Settings
from app.tls import FollowingContext

TIMEOUT = 5.0
"""Seconds for a reply or a connection; a script that was resent after it is told from a new one by its positions."""


class _EncryptedConnection(Connection):
    """What redis-py's own `SSLConnection` is not: it follows its files, as Kafka's connections do."""

    def __init__(self, tls: FollowingContext, **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._tls}


def connect(settings: Settings) -> Redis:
    """A client for the settings; connects on first use. Raises `Stop` for TLS files that cannot be used."""
    options: dict[str, Any] = {
        "decode_responses": False,
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "health_check_interval": 30,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=1),
        **parse_url(settings.redis),
    }
    if settings.redis_username is not None:
        options["username"] = settings.redis_username
    if settings.redis_password is not None:
        options["password"] = settings.redis_password.get_secret_value()
    if options.get("connection_class") is SSLConnection:
        options |= {"connection_class": _EncryptedConnection, "tls": _tls(settings)}
    return Redis.from_pool(ConnectionPool(**options))


def _tls(settings: Settings) -> FollowingContext:
    try:
        return FollowingContext(settings.redis_ssl_cafile, settings.redis_ssl_certfile, settings.redis_ssl_keyfile)
    except OSError as error:
        raise Stop(f"cannot use the TLS files for Redis: {error}", "check the STORMFOLD_REDIS_SSL_… files") from error
