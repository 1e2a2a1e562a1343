"""The cost of an alert as storms, open groups, records, partitions and workers grow. It should stay the same.

Storms and groups are measured in fold alone, within this process and without a broker; the rest with a whole worker.
"""

import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from tests.benchmarks.bench import PARTITIONS, Bench, own_redis
from tests.benchmarks.folding import POLL, Folding, bodies, script_seconds
from tests.benchmarks.load import alert
from tests.benchmarks.results import Growth, Point, Taken
from tests.benchmarks.throughput import FOLDED, filled

SERIES = 20_000
HOT = 300
"""Active groups while others are only open."""

Cost = tuple[float, float, float, float]
"""Seconds for one alert: worker CPU, Redis CPU, broker CPU, wall time."""
Probe = Callable[[Bench, int], Awaitable[Cost]]


async def measure(bench: Bench) -> Growth:
    """Measures every size of every curve, in turns."""
    curves: dict[str, dict[int, list[Cost]]] = {name: defaultdict(list) for name in CURVES}
    for turn in range(bench.rounds):
        for name, (probe, sizes, brief) in CURVES.items():
            for size in bench.size(sizes, brief):
                bench.progress(f"growth, round {turn + 1}: {name}: {size:,}")
                curves[name][size].append(await probe(bench, size))
    return Growth(
        bench.run(),
        {
            name: [
                Point(size, *([seconds * 1e6 for seconds in kind] for kind in zip(*costs, strict=True)))
                for size, costs in found.items()
            ]
            for name, found in curves.items()
        },
    )


async def _members(bench: Bench, size: int) -> Cost:
    return await _folded(bench, max(1, SERIES // size), SERIES, 0)


async def _open_idle(bench: Bench, size: int) -> Cost:
    return await _folded(bench, min(size, HOT), SERIES, max(0, size - HOT))


async def _open_active(bench: Bench, size: int) -> Cost:
    return await _folded(bench, size, max(size, SERIES), 0)


async def _folded(bench: Bench, groups: int, series: int, idle_groups: int) -> Cost:
    """Measures the cost in fold of `series` series in `groups` groups, while `idle_groups` others are open."""
    known = bodies(alert(one, one % groups) for one in range(series))
    async with own_redis(bench, "growth") as client:
        folding = await Folding.open(client)
        if idle_groups:
            await folding.open_storms(folding.storm(known[:1]), 0, idle_groups)
        for begin in range(0, len(known), POLL):
            await folding.poll(known[begin : begin + POLL])
        polls = bench.size(20, 2)
        rng = random.Random(groups)
        drawn = [rng.choices(known, k=POLL) for _ in range(polls)]
        redis, wall, cpu = await script_seconds(client), 0.0, time.process_time()
        for chosen in drawn:
            taken = await folding.poll(chosen)
            wall += taken.merge + taken.fold
        alerts = polls * POLL
        used = time.process_time() - cpu
        return used / alerts, (await script_seconds(client) - redis) / alerts, 0.0, wall / alerts


async def _records(bench: Bench, size: int) -> Cost:
    return await _through(bench, each=size)


async def _partitions(bench: Bench, size: int) -> Cost:
    return await _through(bench, partitions=size)


async def _workers(bench: Bench, size: int) -> Cost:
    return await _through(bench, workers=size)


async def _through(bench: Bench, *, each: int = 1, partitions: int = PARTITIONS, workers: int = 1) -> Cost:
    """Measures the cost of alerts in whole workers."""
    alerts, series = bench.size((120_000, SERIES), (5_000, 500))
    settings = await bench.pipeline(partitions)
    feed = filled(settings, alerts, series, each=each, partitions=partitions)
    return _each(await bench.take_up(settings, feed, FOLDED, alerts, workers=workers, partitions=partitions))


def _each(taken: Taken) -> Cost:
    cpu = taken.cpu
    return cpu.worker / taken.count, cpu.redis / taken.count, cpu.broker / taken.count, taken.wall / taken.count


CURVES: dict[str, tuple[Probe, Sequence[int], Sequence[int]]] = {
    "members of a storm": (_members, (10, 100, 1_000, 10_000), (100,)),
    "open groups, 300 of them active": (_open_idle, (100, 1_000, 10_000, 100_000), (1_000,)),
    "open groups, all active": (_open_active, (100, 1_000, 10_000, 100_000), (1_000,)),
    "alerts in a record": (_records, (1, 10, 100, 500), (10,)),
    "partitions": (_partitions, (1, 4, 12, 48), ()),
    "workers": (_workers, (1, 2, 4), ()),
}
"""Curve → its measurement, its sizes, and its sizes in a quick run."""
