"""A Redis that is nearly full: aggregates lose detail, but no alert and no storm is lost."""

from pathlib import Path

from redis.asyncio import Redis

from stormfold.local.redis import EmbeddedRedis
from stormfold.redis.store import Store
from stormfold.settings import Settings
from tests.support.alerts import Sent, alert, now, record
from tests.support.pipeline import Pipeline
from tests.support.servers import until

MEGABYTE = 1_000_000


async def fill(server: EmbeddedRedis, settings: Settings) -> int:
    """Stores data of other programs; returns the used memory."""
    async with Redis.from_url(server.url) as redis:
        for number in range(50):
            await redis.set(f"other-{number}", b"x" * MEGABYTE)
        return (await Store(redis, settings.redis_prefix).memory()).used


async def limit(server: EmbeddedRedis, maxmemory: int) -> None:
    """Sets `maxmemory` (bytes)."""
    async with Redis.from_url(server.url) as redis:
        await redis.config_set("maxmemory", maxmemory)


async def test_above_85_percent_of_memory_a_flood_is_still_one_storm_with_every_alert(
    own_pipeline: Pipeline, own_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    """Two hundred nodes fail above 85 % of maxmemory: a truncated storm is published and written."""
    settings, folder = own_pipeline.settings, tmp_path / "manifests"
    own_pipeline.configure()
    used = await fill(own_redis, settings)
    await limit(own_redis, int(used / 0.9))

    own_pipeline.start(sink=f"directory:{folder}")
    await until(
        lambda: "Redis memory above 85 %" in own_pipeline.logs(), what="the worker has read the memory of Redis"
    )
    time = now()
    await own_pipeline.publish(Sent(time, record(alert("NodeDown", node=f"n{n}")), n % 3) for n in range(200))
    await own_pipeline.drained(alerts=200)

    found = list((await own_pipeline.aggregates()).values())
    assert sum(one.alert_count for one in found) == 200
    assert {(one.aggregate_class, one.truncated) for one in found} == {("Storm", True)}
    await until(lambda: len(list(folder.glob("*.yaml"))) == len(found), what="all manifests are written")


async def test_a_poll_whose_call_does_not_fit_is_folded_in_smaller_calls(
    own_pipeline: Pipeline, own_redis: EmbeddedRedis
) -> None:
    """The arguments of a call with thousands of rows take more memory than what it stores."""
    own_pipeline.configure("windows: {gap: 15s, grace: 5s, slice: 60s}\n")
    time = now()
    records = (record(alert(f"A{n % 2_000}", pod=f"pod-{n}")) for n in range(30_000))
    await own_pipeline.publish(Sent(time, value, n % 3) for n, value in enumerate(records))
    await limit(own_redis, await fill(own_redis, own_pipeline.settings) + 5 * MEGABYTE // 2)
    own_pipeline.start()
    await own_pipeline.drained(seconds=120.0, alerts=30_000)
