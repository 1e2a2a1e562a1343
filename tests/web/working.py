"""A worker in the test's own process, and what it answers over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp

from app.config import Config
from app.settings import Settings
from app.worker import Worker

NOBODY = {"kafka": "127.0.0.1:9", "redis": "redis://127.0.0.1:10/0"}
"""Ports that nobody listens on: discard's, and its neighbour."""


class Answer(NamedTuple):
    status: int
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def troubles(self) -> dict[str, str]:
        return {trouble["part"]: trouble["trouble"] for trouble in self.body["troubles"]}


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[Worker]:
    """A worker that is stopped in time."""
    worker = Worker(settings, Config())
    await worker.start()
    try:
        yield worker
    finally:
        async with asyncio.timeout(10):
            await worker.stop()


async def get(worker: Worker, path: str) -> Answer:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{worker.web.port}{path}") as answer,
    ):
        return Answer(answer.status, await answer.text())


async def ready(worker: Worker) -> bool:
    return (await get(worker, "/readyz")).status == 200
