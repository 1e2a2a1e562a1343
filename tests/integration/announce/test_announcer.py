"""Takeover of announced incidents by the next holder of the lease: Redis and Alertmanager are real."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from stormfold.announce.notice import Firing
from stormfold.config import Config, ReloadableConfig
from stormfold.correlation import Correlation
from stormfold.errors import Retry
from stormfold.health import Health
from stormfold.local.redis import EmbeddedRedis
from stormfold.redis.store import Store
from stormfold.scope import ScopeKey
from stormfold.settings import Settings
from stormfold.stages import announce
from stormfold.stages.announce import Announcer
from tests.support.alertmanager import Alertmanager, program
from tests.support.gobuild import built
from tests.support.servers import until

PIPELINE = "MkU3OEVBNTcwNTJENDM2Qk/stormfold"
SCOPE: ScopeKey = (("cluster", "eu1"),)
T = 1_780_000_000_000
ANNOTATIONS = {
    "incident": "eu1-1", "namespace": "storms", "alerts": "12", "storms": "1", "resources": "12",
    "startedWith": "PodDown{}", "lastAlert": "2026-05-28T20:26:40.000Z",
}  # fmt: skip
FIRING = Firing(
    labels={"alertname": "AlertIncident", "cluster": "eu1", "stormfold": "incident", "severity": "warning"},
    annotations=ANNOTATIONS, rank=2, severity="warning", starts_at=T, last=T, gap=360_000,
)  # fmt: skip


@pytest.fixture
async def store(redis: Redis) -> Store:
    """A store in an empty Redis."""
    return Store(redis, "stormfold")


@pytest.fixture
async def announcer(store: Store) -> AsyncIterator[Announcer]:
    """The announcer of a worker that begins, without an Alertmanager."""
    announcer = Announcer(Settings(), ReloadableConfig(Config(), None), store, Health())
    yield announcer
    await announcer.stop()


async def test_an_error_after_a_takeover_ends_no_incident(announcer: Announcer, store: Store) -> None:
    """Kafka may be away in the first round of the new holder, or the lease may be lost in it."""
    await _keep(store)
    kept = await store.announced()
    await announcer.begin(PIPELINE)
    announcer.repeat()
    assert announcer.firing == {SCOPE: FIRING}
    assert await store.announced() == kept


async def test_what_fires_is_not_remembered_from_an_earlier_lease(
    announcer: Announcer, store: Store, redis_server: EmbeddedRedis
) -> None:
    """Another holder may have ended it. Without Redis, the takeover fails and is tried again."""
    await _keep(store)
    await announcer.begin(PIPELINE)
    announcer.end()
    await store.keep_announced({}, (await store.announced()).keys())
    await asyncio.to_thread(redis_server.stop)
    try:
        with pytest.raises(Retry):
            await announcer.begin(PIPELINE)
        assert announcer.firing == {}
    finally:
        await asyncio.to_thread(redis_server.start)
    await announcer.begin(PIPELINE)
    assert announcer.firing == {}


async def test_redis_keeps_what_is_no_longer_posted_without_the_lease(
    announcer: Announcer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _keep(store)
    kept = await store.announced()
    await announcer.begin(PIPELINE)
    monkeypatch.setattr(announce, "REPEAT_SECONDS", -1.0)
    announcer.repeat()
    assert announcer.firing == {}
    assert await store.announced() == kept
    await announcer.begin(PIPELINE)
    assert announcer.firing == {SCOPE: FIRING}


async def test_only_incidents_of_the_same_pipeline_are_taken_over_from_alertmanager(
    store: Store, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Redis is empty. Two pipelines post to the Alertmanager, and one program that has no pipeline."""
    built(pytestconfig, program)
    others = {"us1": {"pipeline": "NEY1OEVBNTcwNTJENDM2Qk/stormfold"}, "us2": {}}
    server = Alertmanager(tmp_path / "alertmanager", "route: {receiver: none}\nreceivers: [{name: none}]\n")
    await asyncio.to_thread(server.start)
    announcer = Announcer(
        Settings(alertmanager=f"http://{server.address}"), ReloadableConfig(Config(), None), store, Health()
    )
    try:
        await server.alerts([_posted(name, **more) for name, more in {"eu1": {"pipeline": PIPELINE}, **others}.items()])
        before = await _updated(server)
        await announcer.begin(PIPELINE)

        async def posted() -> bool:
            await announcer.update(None, None, Correlation())
            return (await _updated(server))["eu1"] != before["eu1"]

        await until(posted, what="the incident of this pipeline to be posted")
        assert announcer.firing.keys() == {SCOPE}
        assert (await store.announced()).keys() == {msgspec.json.encode(SCOPE)}
        after = await _updated(server)
        assert {name: after[name] for name in others} == {name: before[name] for name in others}
    finally:
        await announcer.stop()
        await asyncio.to_thread(server.stop)


def _posted(cluster: str, **annotations: str) -> dict[str, Any]:
    """An incident of a cluster, as a worker posts it."""
    now = datetime.now(UTC)
    return {
        "labels": FIRING.labels | {"cluster": cluster},
        "annotations": ANNOTATIONS | {"lastAlert": now.isoformat()} | annotations,
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(hours=1)).isoformat(),
    }


async def _updated(server: Alertmanager) -> dict[str, str]:
    """When each alert was posted last, by cluster."""
    return {one["labels"]["cluster"]: one["updatedAt"] for one in await server.alerts()}


async def _keep(store: Store) -> None:
    """Writes the incident to Redis, as the holder before did."""
    await store.keep_announced({msgspec.json.encode(SCOPE): msgspec.json.encode(FIRING)}, ())
