"""Emit without servers: an unexpected error leaves no write behind and no partition that counts as blocked."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest

from stormfold.config import Config, ReloadableConfig
from stormfold.errors import ActionRequired
from stormfold.health import Health
from stormfold.kafka.batch import Batch
from stormfold.kafka.group_member import GroupMember
from stormfold.settings import Settings
from stormfold.sinks import Outcome
from stormfold.stages import emit
from stormfold.stages.emit import Emit


@dataclass
class Stored:
    """A record of `storms`."""

    key: bytes
    offset: int = 0
    timestamp: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def value(self) -> bytes:
        return json.dumps({"metadata": {"name": self.key.decode()}, "spec": {"class": "Storm"}}).encode()


class Sink:
    """Rejects `forbidden`, fails unexpectedly at `defect`, writes the rest slowly."""

    concurrency = 8

    def __init__(self) -> None:
        self.written: list[str] = []

    async def start(self) -> None: ...

    async def write(self, _manifest: Any, name: str) -> Outcome:
        if name == "forbidden":
            raise ActionRequired("the API server denies it", "grant it")
        await asyncio.sleep(0.05)
        if name == "defect":
            raise RuntimeError("a defect")
        await asyncio.sleep(0.05)
        self.written.append(name)
        return Outcome.EXISTS


async def test_an_unexpected_error_ends_every_write_and_frees_blocked_partitions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nothing_committed(*_: Any) -> dict[int, Any]:
        return {}

    monkeypatch.setattr(emit, "read_committed", nothing_committed)
    health, sink, settings = Health(), Sink(), Settings()
    member = GroupMember("emit", "storms", settings, health)
    stage: Any = Emit(settings, ReloadableConfig(Config()), sink, health, member)  # type: ignore[arg-type]
    await stage.start_positions(None, {0, 1, 2})
    stage._uncommitted = set()
    names = {0: b"forbidden", 1: b"defect", 2: b"sibling"}
    with pytest.raises(RuntimeError, match="a defect"):
        await stage.process(Batch(0, {p: [Stored(name)] for p, name in names.items()}, {}))
    await asyncio.sleep(0.1)
    assert sink.written == [] and health.problems()
    await stage.start_positions(None, {1})
    stage._uncommitted = set()
    await stage.process(Batch(0, {1: [Stored(b"next")]}, {}))
    assert sink.written == ["next"] and not health.problems()
