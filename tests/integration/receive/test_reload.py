"""A receiver applies its configuration file when that changes, and at SIGHUP."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from stormfold.local.process import HOST, free_port, spawn
from stormfold.settings import Settings, variable
from tests.support.servers import environment, until

MAPPING = """\
mappings:
  - name: disk-checks
    when: check && server
    labels: {alertname: check, instance: server}
"""
RECORD = {"check": "disk-full", "server": "db-1"}


@dataclass
class Running:
    """A receiver process and its configuration file."""

    pid: int
    url: str
    config: Path
    log: Path

    async def invalid(self) -> int | None:
        """Returns how many records of one request are invalid; None without an answer."""
        try:
            async with aiohttp.ClientSession() as client, client.post(self.url, json=RECORD) as answer:
                return int((await answer.json())["invalid"]) if answer.status == 200 else None
        except aiohttp.ClientConnectionError:
            return None

    async def is_invalid(self) -> bool:
        """Whether the record is invalid."""
        return await self.invalid() == 1

    async def is_valid(self) -> bool:
        """Whether the record is valid."""
        return await self.invalid() == 0


@pytest.fixture
async def running(topics: Settings, tmp_path: Path) -> AsyncIterator[Running]:
    """A receiver whose configuration has no mapping."""
    port, config, log = free_port(), tmp_path / "stormfold.yaml", tmp_path / "receive.log"
    config.write_text("{}")
    environ = os.environ | environment(topics)
    environ |= {variable("receive_address"): f"{HOST}:{port}", variable("config"): str(config)}
    with log.open("wb") as output:
        process = spawn([sys.executable, "-m", "stormfold", "receive"], output, tmp_path, environ)
    yield Running(process.pid, f"http://{HOST}:{port}/alerts", config, log)
    process.terminate()
    assert await asyncio.to_thread(process.wait, 20) == 0


async def test_a_changed_file_applies_and_a_bad_one_is_refused(running: Running) -> None:
    await until(running.is_invalid, what="nothing reads the record")
    running.config.write_text(MAPPING)
    await until(running.is_valid, what="the mapping reads the record")
    running.config.write_text("mappings: 5")
    await until(lambda: "configuration refused" in running.log.read_text(), what="the file is refused")
    assert await running.is_valid()


async def test_sighup_reloads_at_once_and_does_not_end_the_receiver(running: Running) -> None:
    await until(running.is_invalid, what="nothing reads the record")
    running.config.write_text(MAPPING)
    os.kill(running.pid, signal.SIGHUP)
    await until(running.is_valid, what="the mapping reads the record")
    lines = [json.loads(line)["message"] for line in running.log.read_text().splitlines() if line.startswith("{")]
    assert lines.count("configuration reloaded") == 1
