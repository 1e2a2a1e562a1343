"""A receiver that gets more than it can hold stays below the memory limit of its container."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import aiohttp
import yaml

from stormfold.local.process import HOST, free_port, spawn
from stormfold.receive import server
from stormfold.settings import Settings, variable
from tests.integration.deploy.files import RECEIVE
from tests.support.alerts import alert
from tests.support.servers import environment, until

SENDERS = 12


async def test_bodies_of_the_largest_size_at_once_fit_the_memory_limit(topics: Settings, tmp_path: Path) -> None:
    """Some of them get 503, and the receiver takes alerts afterwards."""
    deployment = yaml.safe_load((RECEIVE / "deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20
    entry = alert("Down", text="x" * 1_000)
    size = len(json.dumps(entry)) + 2
    body = json.dumps([entry] * (server.MAX_BODY_BYTES * 95 // 100 // size)).encode()
    assert SENDERS * len(body) > 2 * server.MAX_HELD_BYTES
    port = free_port()
    environ = os.environ | environment(topics) | {variable("receive_address"): f"{HOST}:{port}"}
    with (tmp_path / "receive.log").open("wb") as log:
        process = spawn([sys.executable, "-m", "stormfold", "receive"], log, tmp_path, environ)
    url = f"http://{HOST}:{port}/alerts"
    try:
        async with aiohttp.ClientSession() as client:

            async def post(data: bytes) -> int:
                try:
                    async with client.post(url, data=data) as answer:
                        return answer.status
                except aiohttp.ClientConnectionError:
                    # The server answered before it had read the whole body.
                    return 0

            await until(lambda: _listens(client, port), what="the receiver listens")
            answers = await asyncio.gather(*(post(body) for _ in range(SENDERS)))
            assert set(answers) <= {0, 200, 503} and {0, 503} & set(answers)
            status = await asyncio.to_thread(Path(f"/proc/{process.pid}/status").read_text)
            peak = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
            assert peak and int(peak[1]) * 1024 < 0.8 * limit, f"{peak and peak[0]}, {answers}"
            assert await post(json.dumps(alert("After")).encode()) == 200
    finally:
        process.terminate()
        process.wait()


async def _listens(client: aiohttp.ClientSession, port: int) -> bool:
    try:
        async with client.get(f"http://{HOST}:{port}/healthz") as answer:
            return answer.status == 200
    except aiohttp.ClientConnectionError:
        return False
