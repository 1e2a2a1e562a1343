"""Alerts a second of one worker and of each stage alone, with backlogs that exist when the worker starts to read."""

import asyncio
from collections import defaultdict

import aiohttp

from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from tests.benchmarks.bench import TIMEOUT, Bench, Feed, counted, fill, start
from tests.benchmarks.load import backlog
from tests.benchmarks.results import Taken, Throughput
from tests.support.apiserver import WORKER, ApiServer
from tests.support.servers import until
from tests.support.workers import Workers

READ, FOLDED = "stormfold_alerts_read_total", "stormfold_alerts_folded_total"
CLOSED, WRITTEN = "stormfold_storms_closed_total", "stormfold_resources_written_total"
RESOURCES = 15
"""Affected resources of the storms that are closed and written."""
CONFIG = "windows: {gap: 1s, grace: 1s, slice: 2s}\nmax_storms: 100000\n"
"""Storms are final as soon as they are there."""
FINAL_MS = 2_001
"""Milliseconds after its last alert at which a storm is final."""


async def measure(bench: Bench) -> Throughput:
    """Measures every load and every stage in turns."""
    alerts, storms = bench.size(240_000, 6_000), bench.size(3_000, 30)
    loads = {
        "20,000 series": bench.size(20_000, 500),
        "hot storm, 2,000 series": bench.size(2_000, 50),
        "every label set new": alerts,
    }
    pipeline: defaultdict[str, list[Taken]] = defaultdict(list)
    stages: defaultdict[str, list[Taken]] = defaultdict(list)
    with ApiServer(bench.folder / "apiserver") as apiserver:
        await asyncio.to_thread(apiserver.install)
        for turn in range(bench.rounds):
            for load, series in list(loads.items())[: bench.size(3, 1)]:
                bench.progress(f"throughput, round {turn + 1}: {load}")
                settings = await bench.pipeline()
                feed = filled(settings, alerts, series)
                pipeline[load].append(await bench.take_up(settings, feed, FOLDED, alerts))
            bench.progress(f"throughput, round {turn + 1}: stage by stage")
            for name, taken in (await _stages(bench, apiserver, alerts, loads["20,000 series"], storms)).items():
                stages[name].append(taken)
    return Throughput(bench.run(), dict(pipeline), dict(stages))


def filled(settings: Settings, *load: int, **more: int) -> Feed:
    """Returns a feed that fills `alerts` with a backlog."""

    async def feed() -> None:
        await asyncio.to_thread(fill, settings, backlog(*load, **more))

    return feed


async def _stages(bench: Bench, apiserver: ApiServer, alerts: int, series: int, storms: int) -> dict[str, Taken]:
    """Measures each stage with a worker that is frozen until the stage before it is done."""
    found: dict[str, Taken] = {}
    settings = await bench.pipeline()

    async def intake() -> None:
        feed = filled(settings, alerts, series)
        found["intake"] = await bench.take_up(settings, feed, READ, alerts, stages="intake")

    found["fold"] = await bench.take_up(settings, intake, FOLDED, alerts, stages="fold")

    brief = await bench.pipeline()
    config = bench.folder / "brief.yaml"
    config.write_text(CONFIG)
    kubernetes = brief.model_copy(update={"group_prefix": f"{brief.group_prefix}-kubernetes"})

    async def fold() -> None:
        with Workers(brief, bench.folder, config) as running:
            await _all_final(running, storms)

    async def close() -> None:
        found["close"] = await bench.take_up(brief, fold, CLOSED, storms, config=config, stages="close")

    async def emit() -> None:
        found["emit, directory"] = await bench.take_up(
            brief,
            close,
            WRITTEN,
            storms,
            config=config,
            stages="emit",
            sink=f"directory:{bench.folder / brief.group_prefix}",
        )

    found["emit, Kubernetes"] = await bench.take_up(
        kubernetes, emit, WRITTEN, storms, config=config, stages="emit", sink="kubernetes",
        kubeconfig=str(apiserver.kubeconfig(WORKER)),
    )  # fmt: skip
    return {name: found[name] for name in ("intake", "fold", "close", "emit, directory", "emit, Kubernetes")}


async def _all_final(running: Workers, storms: int) -> None:
    """Folds `storms` storms with a worker, and waits until the horizon has passed them."""
    settings, alerts = running.settings, storms * RESOURCES
    load = list(backlog(alerts, alerts, storms, spread=0))
    await asyncio.to_thread(fill, settings, load)
    _, addresses = start(running, 1, {"stages": "intake,fold"})
    redis = connect(settings)
    store = Store(redis, settings.redis_prefix)

    async def final() -> bool:
        version = await store.version()
        marked = (await store.marks(version)).marks if version else {}
        return bool(marked) and min(marked.values()) > load[-1].time + FINAL_MS

    async with aiohttp.ClientSession() as session:

        async def folded() -> bool:
            return await counted(session, addresses, FOLDED) >= alerts

        await until(folded, TIMEOUT, "everything is folded")
    await until(final, TIMEOUT, "everything is final")
    await redis.aclose()
