"""A million distinct alerts open at once in a Redis of 512 MB."""

import asyncio

from stormfold.local.redis import EmbeddedRedis
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from tests.benchmarks.bench import Bench
from tests.benchmarks.results import Million
from tests.benchmarks.throughput import FOLDED, filled

ALLOCATOR_KEEPS = 15
"""Seconds after which the allocator has returned the pages that it had freed: it keeps them for 10 s."""
MAX_BUCKETS_PER_CHUNK = 100
"""Buckets that one call reads."""


async def measure(bench: Bench) -> Million:
    """Measures once, independent of the rounds, because memory varies little between runs."""
    alerts, groups = bench.size((1_000_000, 10_000), (3_000, 30))
    bench.progress(f"million: {alerts:,} distinct alerts")
    server = EmbeddedRedis(bench.folder / "redis-million")
    await asyncio.to_thread(server.start)
    try:
        settings = await bench.pipeline(redis=server)
        redis = connect(settings)
        store = Store(redis, settings.redis_prefix)
        empty = (await store.memory()).used
        # Without the stage close nothing is closed, however long it takes.
        feed = filled(settings, alerts, alerts, groups)
        taken = await bench.take_up(settings, feed, FOLDED, alerts, stages="intake,fold")
        resident_at_once = (await redis.info("memory"))["used_memory_rss"]
        await asyncio.sleep(ALLOCATOR_KEEPS)
        memory = await store.memory()
        info = await redis.info("memory")
        resident, allocator = info["used_memory_rss"], info["allocator_frag_ratio"]
        refused = (await redis.info("errorstats")).get("errorstat_OOM", {}).get("count", 0)
        version = await store.version()
        assert version is not None
        opened = await store.open_buckets(version)
        wanted = [(group.group, bucket) for group in opened for bucket in group.buckets]
        listed = 0
        for begin in range(0, len(wanted), MAX_BUCKETS_PER_CHUNK):
            details = await store.details(version, wanted[begin : begin + MAX_BUCKETS_PER_CHUNK])
            listed += sum(len(detail.members) for detail in details)
        await redis.aclose()
    finally:
        await asyncio.to_thread(server.kill)
    return Million(
        bench.run(), alerts, groups, sum(bucket.alerts for group in opened for bucket in group.buckets), listed,
        refused, memory.used, empty, resident, resident_at_once, memory.fragmentation, allocator, taken.wall,
    )  # fmt: skip
