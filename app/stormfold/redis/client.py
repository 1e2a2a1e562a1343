"""The client of Redis: one connection pool from the settings, with credentials and TLS."""

from typing import Any

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from stormfold.errors import ActionRequired
from stormfold.redis.connection import CONNECTIONS, Primary
from stormfold.settings import Settings
from stormfold.tls import ReloadingSSLContext

TIMEOUT = 5.0
"""Seconds for a reply or a connection; afterwards a script may be resent, which its positions reveal."""

CHECK_INTERVAL = 1
"""Seconds after which a connection asks again whether its server is still a primary."""


def connect(settings: Settings) -> Redis:
    """A client for the settings; connects on first use. Raises `ActionRequired` for TLS files that cannot be used."""
    options: dict[str, Any] = {
        "decode_responses": False,
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "health_check_interval": CHECK_INTERVAL,
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
    return Redis.from_pool(ConnectionPool(connection_class=CONNECTIONS[scheme], primary=Primary(), **options))


def _tls(settings: Settings) -> ReloadingSSLContext:
    try:
        return ReloadingSSLContext(settings.redis_ssl_cafile, settings.redis_ssl_certfile, settings.redis_ssl_keyfile)
    except OSError as error:
        raise ActionRequired(
            f"cannot use the TLS files for Redis: {error}", "check the STORMFOLD_REDIS_SSL_… files"
        ) from error
