"""Errors of Redis, sorted by what the caller should do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ConnectionError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
)

from stormfold.errors import NOT_RUNNING_HINT, ActionRequired, Retry, StormfoldError
from stormfold.tls import tls_error

REPLICA_HINT = (
    "let the address lead to the primary, or use redis+sentinel:// or redis+cluster://, which follow failovers;"
    " see docs/operations/redis-failover.md"
)


class StaleStateVersion(Retry):
    """Redis holds another state version than expected, or none: load it again."""


class PositionConflict(Retry):
    """Redis holds other positions than expected: load them again and seek there."""


class RedisOutOfMemory(Retry):
    """Redis is out of memory and rejects writes: nothing was written, and lag grows until there is memory."""


class NotPrimary(ConnectionError):
    """The server is a replica: the connection is closed, and the next one may find the primary."""

    def __init__(self, server: str, primary: str | None = None) -> None:
        super().__init__(f"{server} is a replica" + (f" of {primary}" if primary else ""))


class TlsMismatch(ConnectionError):
    """The server uses TLS and the URL does not, or the reverse."""

    def __init__(self, server: str, server_uses_tls: bool) -> None:
        if server_uses_tls:
            super().__init__(f"Redis at {server} uses TLS, and STORMFOLD_REDIS_URL does not")
            self.hint = "let STORMFOLD_REDIS_URL begin with rediss instead of redis"
        else:
            super().__init__(f"Redis at {server} does not use TLS, and STORMFOLD_REDIS_URL does")
            self.hint = "let STORMFOLD_REDIS_URL begin with redis instead of rediss, or name the TLS port of Redis"


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
    except (RedisError, RedisClusterException, OSError) as error:
        raise _translated(error) from error


def _translated(error: BaseException) -> StormfoldError:
    match error:
        case RedisClusterException() if isinstance(error.__cause__, RedisError | RedisClusterException):
            return _translated(error.__cause__)
        case RedisClusterException() if isinstance(error.__context__, NoPermissionError):
            return _translated(error.__context__)
        case RedisClusterException() if isinstance(error.__context__, ResponseError):
            return ActionRequired(
                f"Redis is not a cluster: {error.__context__}",
                "use redis:// or redis+sentinel:// in STORMFOLD_REDIS_URL",
            )
        case AuthorizationError() | NoPermissionError():
            return ActionRequired(f"Redis denies a command: {error}", "give the user the ACL of docs/how-to/secure.md")
        case AuthenticationError():
            return ActionRequired(
                f"Redis rejects the credentials: {error}",
                "check STORMFOLD_REDIS_USERNAME and STORMFOLD_REDIS_PASSWORD, or the credentials in the URL;"
                " for Sentinels, STORMFOLD_REDIS_SENTINEL_…",
            )
        case TlsMismatch():
            return ActionRequired(str(error), error.hint)
        case NotPrimary():
            return Retry(f"Redis at {error} and accepts no writes (STORMFOLD_REDIS_URL)", REPLICA_HINT)
        case MasterNotFoundError():
            return Retry(f"Redis is not available (STORMFOLD_REDIS_URL): {error}", "check the name of the service")
        case MovedError():
            return ActionRequired(
                f"Redis is a node of a cluster: MOVED {error}", "use redis+cluster:// in STORMFOLD_REDIS_URL"
            )
        case ConnectionError() | TimeoutError() | RedisClusterException() | OSError():
            handshake = tls_error(error, "Redis", "STORMFOLD_REDIS", "STORMFOLD_REDIS_URL")
            return handshake or Retry(f"Redis is not available (STORMFOLD_REDIS_URL): {error}", NOT_RUNNING_HINT)
    # Redis before 7 wraps these as errors of the script.
    if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in str(error):
        return RedisOutOfMemory("Redis is out of memory", "raise its maxmemory, see docs/operations/redis.md")
    if "NOREPLICAS" in str(error):
        return Retry(
            f"Redis rejects writes: {error}",
            "start the replicas that its min-replicas-to-write demands; see docs/operations/redis-failover.md",
        )
    return Retry(f"Redis returned an error: {error}")
