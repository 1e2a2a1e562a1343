"""A Redis that is nearly full: aggregates lose detail, but no alert and no storm is lost."""

from pathlib import Path

from redis.asyncio import Redis

from stormfold.local.redis import EmbeddedRedis
from stormfold.redis.store import Store
from tests.support.alerts import Sent, alert, now, record
from tests.support.pipeline import Pipeline
from tests.support.servers import until

MEGABYTE = 1_000_000


async def test_above_85_percent_of_memory_a_flood_is_still_one_storm_with_every_alert(
    own_pipeline: Pipeline, own_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    """Two hundred nodes fail above 85 % of maxmemory: a truncated storm is published and written."""
    settings, folder = own_pipeline.settings, tmp_path / "manifests"
    own_pipeline.configure()
    async with Redis.from_url(own_redis.url) as redis:
        for number in range(50):
            await redis.set(f"other-{number}", b"x" * MEGABYTE)
        used = (await Store(redis, settings.redis_prefix).memory()).used
        await redis.config_set("maxmemory", int(used / 0.9))

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
