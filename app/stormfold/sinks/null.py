"""The sink `none`: creates nothing. If another sink is set later, it begins with the storms published since."""

from collections.abc import Iterable
from typing import Any

from stormfold.sinks import OnDeleted, Outcome


class NullSink:
    """Reports every resource as existing."""

    concurrency = 1

    async def check(self, namespace: str) -> None:
        pass

    async def write(self, manifest: dict[str, Any], key: str) -> Outcome:  # noqa: ARG002
        return Outcome.EXISTS

    async def delete_expired(
        self, namespaces: Iterable[str], now: int, retention: int, limit: int, on_deleted: OnDeleted
    ) -> None:
        pass

    async def close(self) -> None:
        pass
