"""The primary that Sentinels know: each new connection asks them."""

from collections.abc import Iterable
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.exceptions import ConnectionError, TimeoutError


class _Pool(SentinelConnectionPool):
    """Also closes the connections to the Sentinels."""

    async def aclose(self) -> None:
        await super().aclose()
        await self.sentinel_manager.aclose()


class _Sentinels(Sentinel):
    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Address of the primary. Raises why the last Sentinel does not answer, if none does."""
        try:
            found: tuple[str, int] = await super().discover_master(service_name)
            return found
        except MasterNotFoundError:
            reason: ConnectionError | TimeoutError | None = None
            for sentinel in self.sentinels:
                try:
                    await sentinel.ping()
                except (ConnectionError, TimeoutError) as error:
                    reason = error
                else:
                    raise MasterNotFoundError(
                        f"the Sentinels know no primary of the service {service_name!r}"
                    ) from None
            raise reason or ConnectionError("no Sentinel is configured") from None


def connect_by_sentinels(
    hosts: Iterable[tuple[str, int]], service: str, sentinel_options: dict[str, Any], options: dict[str, Any]
) -> Redis:
    """A client of the primary. Both options have a `connection_class`."""
    sentinels = _Sentinels([])  # type: ignore[no-untyped-call]
    sentinels.sentinels = [
        Redis.from_pool(ConnectionPool(host=host, port=port, **sentinel_options)) for host, port in hosts
    ]
    client: Redis = sentinels.master_for(service, connection_pool_class=_Pool, **options)
    return client
