"""The client of Redis from the settings: of a server, of what Sentinels know, or of a cluster, each with TLS or not."""

from typing import Any, cast

from pydantic import SecretStr
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from stormfold.errors import ActionRequired
from stormfold.redis import connection
from stormfold.redis.cluster import SlotClient
from stormfold.redis.sentinels import connect_by_sentinels
from stormfold.redis_url import parse_redis_url
from stormfold.settings import Settings
from stormfold.tls import ReloadingSSLContext

TIMEOUT = 5.0
"""Seconds for a reply or a connection; afterwards a script may be resent, which its positions reveal."""
SENTINEL_TIMEOUT = 1.0
"""Seconds for a Sentinel, after which the next one is asked."""
CHECK_INTERVAL = 1
"""Seconds after which a connection asks again whether its server is still a primary."""


def connect(settings: Settings) -> Redis:
    """A client for the settings; connects on first use. Raises `ActionRequired` for TLS files that cannot be used."""
    address = parse_redis_url(settings.redis_url)
    tls = {"tls": _tls(settings)} if settings.redis_url.startswith("rediss") else {}
    options: dict[str, Any] = {
        "decode_responses": False,
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "health_check_interval": CHECK_INTERVAL,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=1),
        **parse_url(address.client_url),
    }
    options.pop("connection_class", None)
    options |= _credentials(settings.redis_username, settings.redis_password)
    if address.kind == "server":
        return _connect_to_server(options, tls)
    del options["host"]
    options.pop("port", None)
    if address.kind == "cluster":
        options.pop("db", None)
        # Its connections have no role to check: a replica redirects every command.
        return cast("Redis", SlotClient(address.hosts, connection.Tls if tls else connection.Plain, tls, **options))
    assert address.service is not None
    sentinel_options = {
        "connection_class": connection.Tls if tls else connection.Plain,
        "socket_timeout": SENTINEL_TIMEOUT,
        "socket_connect_timeout": SENTINEL_TIMEOUT,
        **_credentials(settings.redis_sentinel_username, settings.redis_sentinel_password),
        **tls,
    }
    options["connection_class"] = connection.SentinelTls if tls else connection.SentinelPlain
    return connect_by_sentinels(
        address.hosts, address.service, sentinel_options, {**options, **tls, "primary": connection.Primary()}
    )


def _connect_to_server(options: dict[str, Any], tls: dict[str, Any]) -> Redis:
    kind: type[connection.PrimaryConnection] = connection.PrimaryTls if tls else connection.PrimaryPlain
    if "path" in options:
        kind = connection.PrimarySocket
    return Redis.from_pool(ConnectionPool(connection_class=kind, primary=connection.Primary(), **tls, **options))


def _credentials(username: str | None, password: SecretStr | None) -> dict[str, str]:
    found = {} if username is None else {"username": username}
    return found if password is None else found | {"password": password.get_secret_value()}


def _tls(settings: Settings) -> ReloadingSSLContext:
    try:
        return ReloadingSSLContext(settings.redis_ssl_cafile, settings.redis_ssl_certfile, settings.redis_ssl_keyfile)
    except OSError as error:
        raise ActionRequired(
            f"cannot use the TLS files for Redis: {error}", "check the STORMFOLD_REDIS_SSL_… files"
        ) from error
