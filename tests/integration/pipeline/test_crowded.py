"""A Redis that is nearly full: detail is given up, storms are not."""

import time
from pathlib import Path

from redis.asyncio import Redis

from stormfold.redis.store import Store
from tests.integration.pipeline.conftest import Brisk
from tests.support.pipeline import Sent, Workers, alert, assert_balanced, drained, publish, record, storms
from tests.support.servers import until

MEGABYTE = 1_000_000


async def test_a_flood_is_a_storm(brisk: Brisk, tmp_path: Path, config_file: Path) -> None:
    """Two hundred nodes fail above 85 % of maxmemory: a storm is published and written, with every alert counted."""
    settings, folder = brisk.settings, tmp_path / "manifests"
    async with Redis.from_url(settings.redis_url) as redis:
        for number in range(50):
            await redis.set(f"somebody-else-{number}", b"x" * MEGABYTE)
        used = (await Store(redis, settings.redis_prefix).memory()).used
        await redis.config_set("maxmemory", int(used / 0.9))
    with Workers(settings, tmp_path, config_file) as workers:
        workers.start(sink=f"directory:{folder}")
        await until(lambda: "Redis is crowded" in workers.logs(), what="the worker has looked at Redis")
        now = time.time_ns() // 1_000_000
        await publish(settings, [Sent(now, record(alert("NodeDown", node=f"n{n}")), n % 3) for n in range(200)])
        books = await drained(settings, config_file)
        assert_balanced(books, alerts=200)
        found = list((await storms(settings)).values())
        assert sum(one.alert_count for one in found) == 200
        assert {(one.aggregate_class, one.truncated) for one in found} == {("Storm", True)}
        await until(lambda: len(list(folder.glob("*.yaml"))) == len(found), what="they are written")
