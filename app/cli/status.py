"""`stormfold status`: how far each stage is, what is open, how Redis does, and what the worker says of itself."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import click

from app.cli.output import Output, emit_document, emit_table, output_option, safe
from app.errors import StormfoldError
from app.kafka.committed import read_committed
from app.kafka.tail import Tail, open_tail
from app.settings import Settings
from app.stages.intake import intake_positions
from app.store.client import connect
from app.store.redis import Store

WORKER_TIMEOUT = 2.0
"""Seconds to wait for a worker's own word."""


@click.command(
    epilog="""\b
Examples:
  stormfold status
  stormfold status -o json | jq '.lag[] | select(.records > 0)'

Exits with 1 if Kafka or Redis can't be asked, or a worker that answers at STORMFOLD_HTTP is in trouble."""
)
@output_option
@click.pass_context
def command(ctx: click.Context, output: Output) -> None:
    """Show lag per stage and partition, horizon, open groups, Redis memory, and the worker's health."""
    status = asyncio.run(_status(Settings()))
    if output == "table":
        _print(status)
    else:
        emit_document(status, output)
    ctx.exit(1 if status["troubles"] else 0)


async def _status(settings: Settings) -> dict[str, Any]:
    """Part by part: one that can't be asked is named in `troubles`, the others are shown all the same."""
    troubles: list[dict[str, Any]] = []

    async def ask(part: str, question: Callable[[], Awaitable[Any]], otherwise: Any) -> Any:
        try:
            return await question()
        except StormfoldError as error:
            troubles.append({"part": part, "trouble": str(error), "advice": getattr(error, "advice", None)})
            return otherwise

    async with connect(settings) as redis:
        store = Store(redis, settings.redis_prefix)
        epoch = await ask("redis", lambda: _epoch(store), {})
        memory = await ask("redis", lambda: _memory(store), {}) if epoch else {}
        lag = await ask("kafka", lambda: _lag(settings, store), [])
    return {
        "lag": lag,
        "epoch": epoch,
        "redis": {"url": settings.redis_url_safe, **memory},
        "sink": settings.sink,
        "worker": await _worker(settings, troubles),
        "troubles": troubles,
    }


async def _lag(settings: Settings, store: Store) -> list[dict[str, Any]]:
    async with open_tail(settings) as tail:
        emitted = await read_committed(settings, settings.consumer_group("emit"), settings.storms_topic)
        try:
            read = {p: offset for p, (offset, _) in (await intake_positions(settings, store)).items()}
            state = await store.load()
        except StormfoldError:
            # Redis knows how far fold is; without it Kafka's commits are the next best.
            read = await _committed(settings, "intake", settings.alerts_topic)
            folded = await _committed(settings, "fold", settings.keyed_topic)
        else:
            folded = {p: at.offset for p, at in state.positions.items()} if state else {}
        written = {p: offset for p, (offset, _) in emitted.items()}
        return [
            *await _stage(tail, "intake", settings.alerts_topic, read),
            *await _stage(tail, "fold", settings.keyed_topic, folded),
            *await _stage(tail, "emit", settings.storms_topic, written),
        ]


async def _committed(settings: Settings, stage: str, topic: str) -> dict[int, int]:
    found = await read_committed(settings, settings.consumer_group(stage), topic)
    return {partition: offset for partition, (offset, _) in found.items()}


async def _stage(tail: Tail, stage: str, topic: str, reached: Mapping[int, int]) -> list[dict[str, Any]]:
    begins, ends = await tail.begins(topic), await tail.ends(topic)
    return [
        {
            "stage": stage,
            "topic": topic,
            "partition": partition,
            "position": reached.get(partition),
            "end": end,
            "records": max(0, end - reached.get(partition, begins[partition])),
        }
        for partition, end in sorted(ends.items())
    ]


async def _epoch(store: Store) -> dict[str, Any]:
    epoch = await store.epoch()
    if epoch is None:
        return {"number": None}
    clock = await store.clock(epoch)
    now = time.time()
    return {
        "number": epoch.number,
        "horizon": clock.horizon,
        "horizon_delay_seconds": None if clock.horizon is None else round(now - clock.horizon / 1000, 1),
        "open_groups": clock.open_groups,
        "oldest_open_seconds": None if clock.first_open is None else round(now - clock.first_open / 1000, 1),
    }


async def _memory(store: Store) -> dict[str, Any]:
    memory = await store.memory()
    return {
        "used_bytes": memory.used,
        "max_bytes": memory.maximum,
        "used_share": round(memory.share, 3),
        "fragmentation_ratio": memory.fragmentation,
        "policy": memory.policy,
        "evicted_keys": memory.evicted,
    }


async def _worker(settings: Settings, troubles: list[dict[str, Any]]) -> dict[str, Any]:
    host, port = settings.http_address
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    address = f"http://{host}:{port}/readyz"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(WORKER_TIMEOUT)) as session,
            session.get(address) as answer,
        ):
            said: dict[str, Any] = await answer.json()
            troubles += [{**trouble, "part": f"worker: {trouble['part']}"} for trouble in said["troubles"]]
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError):
        # Workers elsewhere are no trouble: none has to run on this machine.
        return {"address": address, "answers": False}
    return {"address": address, "answers": True, "ready": said["ready"]}


def _print(status: Mapping[str, Any]) -> None:
    behind = [row for row in status["lag"] if row["records"]]
    for stage in dict.fromkeys(row["stage"] for row in status["lag"]):
        records = sum(row["records"] for row in behind if row["stage"] == stage)
        click.echo(f"{stage:8} {f'{records:,} records behind' if records else 'caught up'}")
    if behind:
        click.echo()
        emit_table(behind, ("stage", "topic", "partition", "position", "end", "records"))
        click.echo()
    click.echo(f"epoch    {_epoch_text(status['epoch'])}")
    click.echo(f"redis    {_memory_text(status['redis'])}")
    click.echo(f"sink     {status['sink']}")
    worker = status["worker"]
    click.echo(f"worker   {_worker_text(worker)} ({worker['address']})")
    for trouble in status["troubles"]:
        click.secho(f"{trouble['part']}: {safe(trouble['trouble'])}", fg="red")
        if trouble["advice"]:
            click.echo(f"  -> {safe(trouble['advice'])}")


def _epoch_text(epoch: Mapping[str, Any]) -> str:
    if epoch.get("number") is None:
        return "none yet" if epoch else "unknown"
    delay = epoch["horizon_delay_seconds"]
    horizon = "no horizon yet" if delay is None else f"horizon {delay:,} s behind now"
    oldest = epoch["oldest_open_seconds"]
    since = "" if oldest is None else f", the oldest for {oldest:,} s"
    return f"{epoch['number']}, {horizon}, {epoch['open_groups']:,} open groups{since}"


def _memory_text(redis: Mapping[str, Any]) -> str:
    if "used_bytes" not in redis:
        return f"{redis['url']}: unknown"
    most = f" of {redis['max_bytes'] / 2**20:,.0f}" if redis["max_bytes"] else ", no limit,"
    return (
        f"{redis['url']}: {redis['used_bytes'] / 2**20:,.0f}{most} MiB used, {redis['policy']},"
        f" fragmentation {redis['fragmentation_ratio']}"
    )


def _worker_text(worker: Mapping[str, Any]) -> str:
    if not worker["answers"]:
        return "none answers on this machine"
    return "ready" if worker["ready"] else "not ready"
