"""A worker in the process of the test, and its HTTP responses."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp

from stormfold.config import Config
from stormfold.settings import Settings
from stormfold.worker import Worker

NOBODY = {"kafka_bootstrap_servers": "127.0.0.1:9", "redis_url": "redis://127.0.0.1:10/0"}
"""Addresses without any server."""


class Answer(NamedTuple):
    status: int
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def problems(self) -> dict[str, str]:
        return {problem["component"]: problem["problem"] for problem in self.body["problems"]}


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[Worker]:
    """Runs a worker, which must stop in time."""
    worker = Worker(settings, Config())
    await worker.start()
    try:
        yield worker
    finally:
        async with asyncio.timeout(30):
            await worker.stop()


async def get(worker: Worker, path: str) -> Answer:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{worker.web.port}{path}") as answer,
    ):
        return Answer(answer.status, await answer.text())


async def ready(worker: Worker) -> bool:
    return (await get(worker, "/readyz")).status == 200
