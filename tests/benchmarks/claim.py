"""Compares the times and the memory of whole resources in Redis (A), compact JSON (B), and stormfold's fold (C)."""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from redis.asyncio import Redis

from stormfold.redis.errors import RedisOutOfMemory
from tests.benchmarks.bench import Bench, own_redis
from tests.benchmarks.folding import POLL
from tests.benchmarks.forms import COMPACT, WHOLE, Fold, Json, Keeper, Sample, compact, whole
from tests.benchmarks.results import Churn, Claim, Form, Times

MAXMEMORY_MB = 512
SIZES = (15, 100, 1_000, 10_000)
"""Affected resources of a storm."""
MAX_RESOURCES = 200_000
"""Most resources of all storms of a sample."""


async def measure(bench: Bench) -> Claim:
    """Measures all forms at all sizes, in turns."""
    sizes = bench.size(SIZES, SIZES[:1])
    forms = []
    async with keepers(bench) as all_keepers:
        for resources in sizes:
            storms, calls = bench.size(_effort(resources), (20, 20))
            samples: defaultdict[str, list[Sample]] = defaultdict(list)
            for turn in range(bench.rounds):
                for keeper in all_keepers:
                    bench.progress(f"claim, round {turn + 1}: {keeper.name}, {resources} resources")
                    samples[keeper.name].append(await keeper.sample(resources, storms, calls))
            for keeper in all_keepers:
                bench.progress(f"claim: {keeper.name}, {resources} resources until Redis is full")
                times = Times(*([seconds * 1e6 for seconds in one] for one in zip(*samples[keeper.name], strict=True)))
                room, fit = await _fit(keeper, resources, bench.size(MAXMEMORY_MB, 8))
                forms.append(Form(keeper.name, resources, keeper.written(resources), times, room / fit, fit))
        churn = [await _churn(bench, keeper, sizes[:3]) for keeper in all_keepers]
    return Claim(bench.run(), bench.size(MAXMEMORY_MB, 8), forms, churn)


def _effort(resources: int) -> tuple[int, int]:
    """Returns storms and calls of a sample: fewer of large storms, whose calls take long."""
    return min(200, MAX_RESOURCES // resources), min(300, MAX_RESOURCES * 5 // resources)


@asynccontextmanager
async def keepers(bench: Bench) -> AsyncIterator[Sequence[Keeper]]:
    """Yields the three forms with their servers."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(own_redis(bench, form)) for form in "abc"]
        a, b, c = clients
        yield Json("A, whole resource", whole, WHOLE, a), Json("B, compact JSON", compact, COMPACT, b), Fold(c)


async def _used(client: Redis) -> int:
    """Returns the memory in use, without the buffers of connections and of the append-only file."""
    memory = await client.info("memory")
    return int(memory["used_memory"] - memory["mem_clients_normal"] - memory["mem_aof_buffer"])


async def _fit(keeper: Keeper, resources: int, maxmemory_mb: int) -> tuple[int, int]:
    """Opens storms until Redis refuses one; returns the available bytes and the number of storms."""
    await keeper.clear()
    room = maxmemory_mb * 2**20 - await _used(keeper.client)
    await keeper.client.config_set("maxmemory", f"{maxmemory_mb}mb")
    at, step = 0, max(1, POLL // resources)
    try:
        while True:
            await keeper.open(resources, at, step)
            at += step
    except RedisOutOfMemory:
        return room, await keeper.opened()
    finally:
        await keeper.clear()
        await keeper.client.config_set("maxmemory", "512mb")


async def _churn(bench: Bench, keeper: Keeper, sizes: Sequence[int]) -> Churn:
    """Opens and closes storms of all sizes, equal in total resources; one in ten stays open into the next window."""
    bench.progress(f"claim: {keeper.name}, churn")
    await keeper.clear()
    windows, resources_each, peak = bench.size(40, 5), bench.size(15_000, 300), 0
    for window in range(1, windows + 1):
        for resources in sizes:
            await keeper.open(resources, resources * 1_000_000, resources_each // resources, window)
        peak = max(peak, await _used(keeper.client))
        await keeper.close(await keeper.opened() * 9 // 10)
    memory = await keeper.client.info("memory")
    return Churn(
        keeper.name, windows, await _used(keeper.client), peak, memory["used_memory_rss"],
        float(memory["mem_fragmentation_ratio"]),
    )  # fmt: skip
