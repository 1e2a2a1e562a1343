"""Takeover of announced incidents by the next holder of the lease: Redis and Alertmanager are real."""

from collections.abc import AsyncIterator

import msgspec
import pytest
from redis.asyncio import Redis

from stormfold.announce.notice import Firing
from stormfold.config import Config, ReloadableConfig
from stormfold.health import Health
from stormfold.redis.store import Store
from stormfold.scope import ScopeKey
from stormfold.settings import Settings
from stormfold.stages import announce
from stormfold.stages.announce import Announcer

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
    await announcer.begin()
    announcer.repeat()
    assert announcer.firing == {SCOPE: FIRING}
    assert await store.announced() == kept


async def test_redis_keeps_what_is_no_longer_posted_without_the_lease(
    announcer: Announcer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _keep(store)
    kept = await store.announced()
    await announcer.begin()
    monkeypatch.setattr(announce, "REPEAT_SECONDS", -1.0)
    announcer.repeat()
    assert announcer.firing == {}
    assert await store.announced() == kept
    await announcer.begin()
    assert announcer.firing == {SCOPE: FIRING}


async def _keep(store: Store) -> None:
    """Writes the incident to Redis, as the holder before did."""
    await store.keep_announced({msgspec.json.encode(SCOPE): msgspec.json.encode(FIRING)}, ())
