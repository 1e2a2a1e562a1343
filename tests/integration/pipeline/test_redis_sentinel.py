"""Redis with three Sentinels fails over under load: every alert is counted once."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stormfold.errors import ActionRequired, Retry
from stormfold.local.kafka import EmbeddedKafka
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from tests.integration.pipeline.failover import folded, open_pipeline, until_it_folds
from tests.support.pipeline import publish_live
from tests.support.redis_sentinel import SERVICE, Sentinels
from tests.support.servers import until


@pytest.fixture
async def sentinels(tmp_path: Path) -> AsyncIterator[Sentinels]:
    """A primary, a replica and three Sentinels."""
    made = Sentinels(tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await asyncio.to_thread(made.stop)


async def test_workers_follow_sentinels_when_the_primary_is_killed_or_asked_to_leave(
    kafka: EmbeddedKafka, sentinels: Sentinels, tmp_path: Path
) -> None:
    first, second = sentinels.servers
    async with open_pipeline(kafka, first, tmp_path, **sentinels.settings) as pipeline:
        pipeline.start()
        publishing = asyncio.ensure_future(publish_live(pipeline.settings, 20.0, 31))
        await until_it_folds(pipeline.settings, sentinels.open(first))

        await asyncio.to_thread(first.kill)
        await sentinels.until_promoted(second)
        await until_it_folds(pipeline.settings, sentinels.open(second))
        await asyncio.to_thread(first.start)
        await sentinels.admit(first)
        await sentinels.until_ready(second)

        await sentinels.fail_over()
        await sentinels.until_promoted(first)
        await until_it_folds(pipeline.settings, sentinels.open(first))
        await pipeline.assert_keyed_model(alerts=await publishing)
        assert "Traceback" not in pipeline.logs()


async def test_a_worker_that_still_writes_to_a_parted_primary_counts_nothing_twice(
    kafka: EmbeddedKafka, sentinels: Sentinels, tmp_path: Path
) -> None:
    """One worker stays with the old primary, which nobody else reaches; another one finds the new primary. All that the
    old one got since is lost."""
    old, new = sentinels.servers
    async with open_pipeline(kafka, old, tmp_path, **sentinels.settings) as pipeline:
        pipeline.start()
        publishing = asyncio.ensure_future(publish_live(pipeline.settings, 24.0, 32))
        await until_it_folds(pipeline.settings, sentinels.open(old))

        await sentinels.part(old, parted=True)
        before = await folded(pipeline.settings, sentinels.open(old))
        await sentinels.until_promoted(new)
        pipeline.start()
        await until_it_folds(pipeline.settings, sentinels.open(new))
        assert await folded(pipeline.settings, sentinels.open(old)) > before

        await sentinels.part(old, parted=False)
        await sentinels.until_ready(new)
        await pipeline.assert_keyed_model(alerts=await publishing)


async def _load(settings: Settings) -> None:
    async with connect(settings) as client:
        await Store(client, "stormfold").load()


async def test_refused_and_unknown_names_are_reported_with_a_hint(sentinels: Sentinels) -> None:
    """Credentials of data and of Sentinels apart."""
    await _load(Settings(**sentinels.settings))
    for name in ("redis_password", "redis_sentinel_password"):
        with pytest.raises(ActionRequired, match="rejects the credentials") as refused:
            await _load(Settings(**sentinels.settings | {name: "wrong"}))
        assert refused.value.hint and "STORMFOLD_REDIS_SENTINEL_" in refused.value.hint
    unknown = sentinels.url.replace(f"/{SERVICE}", "/other")
    with pytest.raises(Retry, match="the Sentinels know no primary of the service 'other'"):
        await _load(Settings(**sentinels.settings | {"redis_url": unknown}))
    for sentinel in sentinels.sentinels:
        await asyncio.to_thread(sentinel.kill)
    with pytest.raises(Retry, match=re.escape("Redis is not available (STORMFOLD_REDIS_URL)") + ".*connect"):
        await _load(Settings(**sentinels.settings))
    await asyncio.to_thread(sentinels.sentinels[2].start)
    await until(lambda: _load_once(Settings(**sentinels.settings)), what="one Sentinel is enough")


async def _load_once(settings: Settings) -> bool:
    try:
        await _load(settings)
    except Retry:
        return False
    return True
