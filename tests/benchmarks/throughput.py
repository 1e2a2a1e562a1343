"""Alerts per second from `alerts` to folded in Redis, both hops in one worker: `make bench`.

A backlog is loaded first, then one worker takes it up. Wall time and the CPU seconds of worker, broker and Redis are
counted from the first alert folded to the last. Machines are noisy: read ratios within one run, and the spread.
"""

import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import uvloop
from rich.console import Console
from rich.table import Table

from app.kafka.client import open_admin
from app.kafka.topics import create, topics
from app.local.kafka import EmbeddedKafka
from app.local.redis import EmbeddedRedis
from app.settings import Settings
from app.store.client import connect
from app.store.redis import Store
from tests.support.pipeline import Sent, Workers, publish, record
from tests.support.servers import until

ALERTS = 240_000
PARTITIONS = 12
GROUPS = 300
SHAPES = {"20,000 series": 20_000, "hot storm, 2,000 series": 2_000, "every label set new": ALERTS}
"""Distinct label sets among the alerts of a run."""
LOOK_EVERY = 0.3
"""Seconds between two looks at what is folded: to look is work for Redis."""
TICK = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """CPU seconds used so far."""

    worker: float
    broker: float
    redis: float


class Result(NamedTuple):
    """One run: seconds."""

    wall: float
    cpu: Usage


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def backlog(series: int) -> list[Sent]:
    """Alerts of about 450 bytes that came within a minute, an hour ago."""
    rng = random.Random(series)
    start = time.time_ns() // 1_000_000 - 3_600_000
    result = []
    for number in range(ALERTS):
        one = number if series >= ALERTS else rng.randrange(series)
        labels = {
            "alertname": f"KubePodCrashLooping{one % GROUPS}", "cluster": "prod-eu-west-1", "severity": "critical",
            "namespace": f"payments-{one % 30}", "pod": f"api-7d9f6c5b4-{one:06d}", "container": "api",
            "job": "kube-state-metrics", "prometheus": "monitoring/k8s",
        }  # fmt: skip
        annotations = {
            "summary": "Pod is crash looping.",
            "runbook_url": "https://runbooks.example.com/kubernetes/kubepodcrashlooping",
        }
        alert = {"labels": labels, "annotations": annotations, "status": "firing", "startsAt": "2026-01-01T00:00:00Z"}
        result.append(Sent(start + number // 4, record(alert), number % PARTITIONS))
    return result


async def run(kafka: EmbeddedKafka, redis: EmbeddedRedis, folder: Path, series: int) -> Result:
    """Loads a backlog, has one worker take it up, and measures."""
    name = f"bench{time.time_ns()}"
    settings = Settings(
        kafka=kafka.bootstrap, redis=redis.url, http="127.0.0.1:0", redis_prefix=name, group_prefix=name,
        alerts_topic=f"{name}-alerts", keyed_topic=f"{name}-keyed", storms_topic=f"{name}-storms",
        dead_topic=f"{name}-dead", storms_dead_topic=f"{name}-storms-dead", log_level="error",
    )  # fmt: skip
    async with open_admin(settings) as admin:
        await create(admin, topics(settings, PARTITIONS, past=True, max_record=2_000_000))
    await publish(settings, backlog(series))
    client = connect(settings)
    await client.flushall()
    store = Store(client, name)
    with Workers(settings, folder) as workers:
        process = workers.start()

        def usage() -> Usage:
            return Usage(*(cpu_seconds(pid) for pid in (process.pid, kafka.pid or 0, redis.pid or 0)))

        first = await until(lambda: folded(store), what="something is folded")
        started, before = time.perf_counter(), usage()
        while (done := await folded(store)) < ALERTS:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_EVERY)
        share = (done - first) / ALERTS
        result = Result(
            (time.perf_counter() - started) / share,
            Usage(*((now - then) / share for now, then in zip(usage(), before, strict=True))),
        )
    await client.aclose()
    return result


async def folded(store: Store) -> int:
    """Alerts in open groups: all of them, as long as nothing has been closed."""
    state = await store.load()
    if state is None:
        return 0
    return sum(bucket.alerts for group in await store.open_buckets(state.epoch) for bucket in group.buckets)


async def main(rounds: int) -> None:
    """Runs every shape in turn, as often as asked, and prints medians with their spread."""
    results: dict[str, list[Result]] = {shape: [] for shape in SHAPES}
    with tempfile.TemporaryDirectory(prefix="stormfold-bench-") as name:
        folder = Path(name)
        kafka = EmbeddedKafka(folder / "kafka", on_progress=print)
        redis = EmbeddedRedis(folder / "redis", maxmemory="4gb")
        await asyncio.to_thread(kafka.start)
        try:
            await asyncio.to_thread(redis.start)
            for turn in range(rounds):
                for shape, series in SHAPES.items():
                    print(f"round {turn + 1} of {rounds}: {shape}", file=sys.stderr)
                    results[shape].append(await run(kafka, redis, folder, series))
        finally:
            await asyncio.to_thread(redis.stop)
            await asyncio.to_thread(kafka.stop)
    show(results)


def show(results: dict[str, list[Result]]) -> None:
    """Prints the table."""
    table = Table(title=f"alerts → folded, one worker, {ALERTS:,} alerts, medians (lowest-highest)")
    for column in ("load", "alerts/s wall", "per CPU-second of the worker", "broker µs/alert", "Redis µs/alert"):
        table.add_column(column, justify="left" if column == "load" else "right")
    for shape, runs in results.items():
        rates = [ALERTS / result.wall for result in runs]
        per_cpu = [ALERTS / result.cpu.worker for result in runs]
        broker = statistics.median(result.cpu.broker for result in runs) / ALERTS * 1e6
        redis = statistics.median(result.cpu.redis for result in runs) / ALERTS * 1e6
        table.add_row(shape, _spread(rates), _spread(per_cpu), f"{broker:.1f}", f"{redis:.1f}")
    Console(width=120).print(table)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
