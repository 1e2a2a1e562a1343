"""Time from alert to folded and from final to resource present at shares of capacity, and time to catch up.

Every 50 ms one alert, a probe, is in a group of its own: it is found in Redis when it is folded, and as a manifest in a
folder when its storm is written. The load begins before the first probe, because the first alert of each series takes a
worker longer than the others, which the throughput shows.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import msgspec
import yaml
from confluent_kafka import Producer

from stormfold.config import loads
from stormfold.keyed_record import Body
from stormfold.manifest import from_manifest
from stormfold.redis.client import connect
from stormfold.redis.layout import Keys
from stormfold.series import SeriesReader
from stormfold.settings import Settings
from stormfold.status.snapshot import STAGES
from tests.benchmarks.bench import PARTITIONS, TIMEOUT, Bench, assigned, percentile, start
from tests.benchmarks.load import alert
from tests.benchmarks.results import Delay, Latency, Taken
from tests.benchmarks.throughput import FOLDED, filled
from tests.support.servers import until
from tests.support.workers import Workers

LOADS = (0.01, 0.5, 0.9)
SERIES, GROUPS = 20_000, 300
FIRST_PROBE = 1_000_000
"""Number of the first probe's series and of its group."""
PROBE_FILES = "*.kubepodcrashlooping1??????-*.yaml"
"""The files of the probes' storms: the groups of the load have smaller numbers."""
PROBE_EVERY = 0.05
WARM_UP = 3.0
"""Seconds of load before the first probe."""
STEP = 0.002
"""Seconds between two checks, and between two bursts of the load."""
PAST_MS = 600_000
"""Event time that the backlog of the catch-up covers (ms)."""
GAP, GRACE = 2_000, 1_000
SOON = 1.0
"""Seconds within which a final storm should be present."""
CONFIG = f"""\
windows: {{gap: {GAP // 1000}s, grace: {GRACE // 1000}s, slice: 300s}}
routes: [{{name: default, storm_when: {{alerts: 1, resources: 1}}}}]
"""
"""A configuration in which every group becomes a resource within seconds."""


async def measure(bench: Bench) -> Latency:
    """Measures the capacity, then the loads in turns and a backlog of a million."""
    bench.progress("latency: capacity")
    alerts = bench.size(240_000, 6_000)
    settings = await bench.pipeline()
    taken = await bench.take_up(settings, filled(settings, alerts, bench.size(SERIES, 500)), FOLDED, alerts)
    capacity = alerts / taken.wall
    delays: defaultdict[float, list[list[float]]] = defaultdict(list)
    catch_up: list[Taken] = []
    for turn in range(bench.rounds):
        for load in bench.size(LOADS, LOADS[1:2]):
            bench.progress(f"latency, round {turn + 1}: {load:.0%} of {capacity:,.0f} alerts/s")
            delays[load].append(await _live(bench, capacity * load))
        bench.progress(f"latency, round {turn + 1}: catch-up")
        catch_up.append(await _catch_up(bench))
    found = [
        Delay(load, capacity * load, *(list(column) for column in zip(*rows, strict=True)))
        for load, rows in delays.items()
    ]
    return Latency(bench.run(), capacity, found, catch_up)


async def _catch_up(bench: Bench) -> Taken:
    """Measures from the start of the worker's process to the last alert."""
    alerts = bench.size(1_000_000, 10_000)
    settings = await bench.pipeline()
    await filled(settings, alerts, bench.size(SERIES, 500), GROUPS, spread=PAST_MS)()
    async with aiohttp.ClientSession() as session:
        with Workers(settings, bench.folder) as running:
            return await bench.watch(session, *start(running, 1, {}), FOLDED, alerts)


async def _live(bench: Bench, rate: float) -> list[float]:
    """Returns alerts a second that were sent, then folded p50 and p99, present p50 and p99 (s)."""
    seconds = bench.size(12.0, 6.0)
    settings = await bench.pipeline()
    config, folder = bench.folder / "live.yaml", bench.folder / settings.redis_prefix
    config.write_text(CONFIG)
    probes = [alert(FIRST_PROBE + one, FIRST_PROBE + one) for one in range(int(seconds / PROBE_EVERY))]
    sent: list[float] = []
    async with aiohttp.ClientSession() as session:
        with Workers(settings, bench.folder, config) as running:
            _, addresses = start(running, 1, {"sink": f"directory:{folder}"})
            await assigned(session, addresses, len(STAGES) * PARTITIONS)
            producing = asyncio.create_task(asyncio.to_thread(_produce, settings, rate, probes, sent))
            folded = await _folded(settings, probes, sent)
            rate_sent = await producing
            # Count only storms that are due while the load continues: after its end, marks are less frequent.
            under_load = sum(at + (GAP + GRACE) / 1000 + SOON < sent[0] + seconds for at in sent)
            await _all_written(folder, len(probes))
    delays = [at - begin for at, begin in zip(folded, sent, strict=True)]
    present = _present(folder)[:under_load]
    return [rate_sent, *(percentile(found, share) for found in (delays, present) for share in (0.5, 0.99))]


def _produce(settings: Settings, rate: float, probes: Sequence[bytes], sent: list[float]) -> float:
    """Sends the load, and records in `sent` when each probe was sent; returns the alerts a second that it reached."""
    known = [alert(one, one % GROUPS) for one in range(SERIES)]
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "acks": "all",
            "linger.ms": 1,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    begin, count = time.perf_counter(), 0
    while len(sent) < len(probes):
        at = time.perf_counter() - begin
        # At most the load of twenty steps at once, so that probes do not wait behind it.
        for number in range(count, min(int(at * rate), count + max(1, int(rate * STEP * 20)))):
            producer.produce(settings.alerts_topic, known[number % SERIES], partition=number % PARTITIONS)
            count += 1
        if at >= WARM_UP + len(sent) * PROBE_EVERY:
            producer.produce(settings.alerts_topic, probes[len(sent)], partition=len(sent) % PARTITIONS)
            sent.append(time.time())
        producer.poll(0)
        time.sleep(STEP)
    took = time.perf_counter() - begin
    producer.flush(TIMEOUT)
    return count / took


async def _folded(settings: Settings, probes: Sequence[bytes], sent: Sequence[float]) -> list[float]:
    """Returns the time at which each probe's group was found in Redis."""
    reader = SeriesReader(loads(CONFIG, "live"))
    keyed = [reader.parse(probe, (), 0)[0][0] for probe in probes]
    groups = [msgspec.msgpack.decode(one.body, type=Body).group for one in keyed]
    due = Keys(settings.redis_prefix).of(1).due
    found: dict[int, float] = {}
    redis = connect(settings)
    deadline = time.monotonic() + TIMEOUT
    while len(found) < len(probes):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(found)} of {len(probes)} probes are folded after {TIMEOUT:.0f} s")
        waiting = [one for one in range(len(sent)) if one not in found]
        if waiting:
            scores = await redis.zmscore(due, [groups[one] for one in waiting])
            found |= {one: time.time() for one, score in zip(waiting, scores, strict=True) if score is not None}
        await asyncio.sleep(STEP)
    await redis.aclose()
    return [found[one] for one in range(len(probes))]


async def _all_written(folder: Path, probes: int) -> None:
    """Waits until the storm of every probe is in the folder."""
    try:
        await until(lambda: len(_written(folder)) >= probes, TIMEOUT)
    except AssertionError as error:
        found = len(_written(folder))
        raise RuntimeError(f"the storms of {found} of {probes} probes are written after {TIMEOUT:.0f} s") from error


def _written(folder: Path) -> list[Path]:
    return list(folder.glob(PROBE_FILES))


def _present(folder: Path) -> list[float]:
    """Returns the seconds from final to written of the probes' storms, in order of time."""
    found = []
    for path in _written(folder):
        storm = from_manifest(yaml.load(path.read_bytes(), yaml.CSafeLoader))
        found.append((storm.last_seen, path.stat().st_mtime - (storm.last_seen + GAP + GRACE + 1) / 1000))
    return [delay for _, delay in sorted(found)]
