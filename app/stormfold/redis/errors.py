"""Errors of Redis, sorted by what the caller should do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    TimeoutError,
)

from stormfold.errors import NOT_RUNNING_HINT, ActionRequired, Retry
from stormfold.tls import tls_error

REPLICA_HINT = (
    "let the address lead to the primary, or use redis+sentinel:// or redis+cluster://, which follow failovers;"
    " see docs/operations/redis.md"
)


class StaleStateVersion(Retry):
    """Redis holds another state version than expected, or none: load it again."""


class PositionConflict(Retry):
    """Redis holds other positions than expected: load them again and seek there."""


class RedisOutOfMemory(Retry):
    """Redis is out of memory and rejects writes: nothing was written, lag grows until storms are closed."""


class NotPrimary(ConnectionError):
    """The server is a replica: the connection is closed, and the next one may find the primary."""

    def __init__(self, server: str, primary: str | None = None) -> None:
        super().__init__(f"{server} is a replica" + (f" of {primary}" if primary else ""))


class BehindWatermark(Exception):
    """A row begins before the watermark: count its alerts at the horizon."""

    def __init__(self, horizon: int) -> None:
        super().__init__(f"rows before the watermark of horizon {horizon}")
        self.horizon = horizon


@asynccontextmanager
async def translate_errors() -> AsyncIterator[None]:
    """Turns redis-py's errors into `Retry`, `RedisOutOfMemory` or `ActionRequired`."""
    try:
        yield
    except (AuthorizationError, NoPermissionError) as error:
        raise ActionRequired(
            f"Redis denies a command: {error}", "give the user the ACL of docs/how-to/secure.md"
        ) from error
    except AuthenticationError as error:
        raise ActionRequired(
            f"Redis rejects the credentials: {error}",
            "check STORMFOLD_REDIS_USERNAME and STORMFOLD_REDIS_PASSWORD, or the credentials in STORMFOLD_REDIS_URL",
        ) from error
    except NotPrimary as error:
        raise Retry(f"Redis at {error} and accepts no writes (STORMFOLD_REDIS_URL)", REPLICA_HINT) from error
    except (ConnectionError, TimeoutError, BusyLoadingError, OSError) as error:
        if handshake := tls_error(error, "Redis", "STORMFOLD_REDIS", "STORMFOLD_REDIS_URL"):
            raise handshake from error
        raise Retry(f"Redis is not available (STORMFOLD_REDIS_URL): {error}", NOT_RUNNING_HINT) from error
    except RedisError as error:
        # Redis before 7 wraps it as an error of the script.
        if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in str(error):
            raise RedisOutOfMemory(f"Redis is out of memory: {error}") from error
        raise Retry(f"Redis returned an error: {error}") from error
