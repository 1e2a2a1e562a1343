"""The sink `none`: creates nothing. If another sink is set later, it begins with the storms published since."""

from typing import Any

from stormfold.sinks import OnDeleted, Outcome


class NullSink:
    """Reports every resource as existing."""

    concurrency = 1

    async def start(self) -> None:
        pass

    async def write(self, manifest: dict[str, Any], key: str) -> Outcome:  # noqa: ARG002
        return Outcome.EXISTS

    async def delete_expired(self, now: int, retention: int, max_storms: int, on_deleted: OnDeleted) -> None:
        pass

    async def close(self) -> None:
        pass
