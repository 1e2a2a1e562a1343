"""The sink `none`: storms are read and nothing is made of them; another sink, set later, begins with new ones."""

from typing import Any

from stormfold.sinks import Gone, Outcome


class NullSink:
    """Says of every storm that it was there."""

    concurrency = 1

    async def start(self) -> None:
        pass

    async def write(self, manifest: dict[str, Any], key: str) -> Outcome:  # noqa: ARG002
        return Outcome.EXISTS

    async def retain(self, now: int, retention: int, max_storms: int, gone: Gone) -> None:
        pass

    async def close(self) -> None:
        pass
