"""How to reach Redis: one connection pool from the settings, with credentials and TLS as given."""

from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from app.settings import Settings

TIMEOUT = 5.0
"""Seconds for a reply or a connection; a script that was resent after it is told from a new one by its positions."""


def connect(settings: Settings) -> Redis:
    """A client for the settings; connects on first use."""
    options: dict[str, Any] = {
        "ssl_ca_certs": _path(settings.redis_ssl_cafile),
        "ssl_certfile": _path(settings.redis_ssl_certfile),
        "ssl_keyfile": _path(settings.redis_ssl_keyfile),
        "username": settings.redis_username,
        "password": settings.redis_password.get_secret_value() if settings.redis_password else None,
    }
    return Redis.from_url(
        settings.redis,
        decode_responses=False,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=1),
        **{name: value for name, value in options.items() if value is not None},
    )


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)
