"""`stormfold status`: how far each stage is, what is open, how Redis does, and what a worker here says of itself."""

import asyncio
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import aiohttp
import click
import msgspec
from yarl import URL

from stormfold.cli.output import Output, emit_document, output_option
from stormfold.errors import StormfoldError
from stormfold.kafka.client import open_admin
from stormfold.kafka.reader import open_reader
from stormfold.kafka.topics import partitions_of
from stormfold.redis.client import connect
from stormfold.redis.store import Memory, Store
from stormfold.settings import Settings, variable
from stormfold.stages.redis_monitor import POLICY
from stormfold.status.snapshot import (
    STAGES,
    KafkaSnapshot,
    Place,
    RedisSnapshot,
    closed_until,
    places,
    snapshot_kafka,
    snapshot_redis,
    topic_of,
)
from stormfold.text import escape_unprintable, pluralize
from stormfold.times import format_duration, format_timestamp

ANSWER_SECONDS = 15.0
"""Longest to wait for Kafka or Redis: a server that takes connections and says nothing is told from a slow one."""
WORKER_SECONDS = 2.0
"""Longest to wait for a worker on this machine."""
SHOWN = 8
"""Of the partitions of a stage that are behind, most of them first."""
KEEP = "keep it for longer than the longest outage; `stormfold audit` says what is missing"
FORGET = "if the topic was created anew, stop the workers and run `stormfold topics --reset-positions`"

_T = TypeVar("_T")


class Problem(msgspec.Struct):
    """Something that is wrong, and what to do about it."""

    component: str
    problem: str
    hint: str | None = None
    since: str | None = None


class Worker(msgspec.Struct):
    """What a worker says at `/readyz`."""

    ready: bool
    problems: list[Problem]
    sink: str | None = None
    """Where it writes storms; None if that is not its work."""


@click.command(
    epilog="""\b
Examples:
  stormfold status
  stormfold status -o json | jq '.lag[] | select(.records > 0)'

Exits with 1 if something is wrong: Kafka or Redis does not answer, a topic is missing, records were lost, a partition
is not read, Redis may evict keys, or the worker that answers at STORMFOLD_HTTP_ADDRESS is not ready. Lag is not a
problem."""
)
@output_option
@click.pass_context
def command(ctx: click.Context, output: Output) -> None:
    """Show lag per stage and partition, horizon, open groups, Redis memory, and the sink."""
    status = asyncio.run(look(Settings()))
    if output == "table":
        _print(status)
    else:
        emit_document(status, output)
    ctx.exit(1 if status["problems"] else 0)


async def look(settings: Settings) -> dict[str, Any]:
    """The status as plain data. What does not answer is among the `problems`, the rest is there all the same."""
    problems: list[Problem] = []

    async def ask(part: str, question: Awaitable[_T]) -> _T | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await question
        except TimeoutError:
            problems.append(Problem(part, f"no answer within {ANSWER_SECONDS:.0f} s"))
        except StormfoldError as error:
            problems.append(Problem(part, str(error), error.hint))
        return None

    async with connect(settings) as redis:
        store = Store(redis, settings.redis_prefix)
        kafka, kept, worker = await asyncio.gather(
            ask("kafka", _kafka(settings, problems)), ask("redis", snapshot_redis(store)), _worker(settings)
        )
    lag = _lag([] if kafka is None else list(places(settings, kafka, kept)), problems)
    if kept is not None and (kept.memory.evicted or (kept.memory.maximum and kept.memory.policy != POLICY)):
        why = f"it may throw keys away: policy {kept.memory.policy}, {kept.memory.evicted} evicted"
        problems.append(Problem("redis", why, f"set maxmemory-policy {POLICY}"))
    if worker is not None:
        problems += [
            msgspec.structs.replace(problem, component=f"worker: {problem.component}") for problem in worker.problems
        ]
    closed = None if kafka is None else closed_until(kafka)
    return {
        "lag": lag,
        "epoch": {} if kept is None else _epoch(kept),
        "closed_until": None if closed is None else format_timestamp(closed),
        "redis": {"url": settings.redis_url_safe} | ({} if kept is None else _memory(kept.memory)),
        # Not what is set here: the pipeline's own word for it.
        "sink": None if worker is None else worker.sink,
        "worker": {"address": settings.http_address, "answers": worker is not None, "ready": worker and worker.ready},
        "problems": msgspec.to_builtins(problems),
    }


async def _kafka(settings: Settings, problems: list[Problem]) -> KafkaSnapshot:
    async with open_admin(settings) as admin, open_reader(settings) as tail:
        found = await snapshot_kafka(settings, admin, tail)
    for stage in STAGES:
        if stage not in found.topics:
            try:
                await partitions_of(settings, topic_of(settings, stage))
            except StormfoldError as error:
                # It may be missing, or only not to be seen.
                problems.append(Problem("kafka", str(error), error.hint))
    return found


async def _worker(settings: Settings) -> Worker | None:
    """What the worker at `STORMFOLD_HTTP_ADDRESS` says; None if none answers there, or something else does."""
    host, port = settings.http_bind
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    if port == 0:
        return None
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(WORKER_SECONDS)) as session,
            session.get(URL.build(scheme="http", host=here, port=port, path="/readyz")) as answer,
        ):
            return msgspec.json.decode(await answer.read(), type=Worker)
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError):
        return None


def _lag(found: Sequence[Place], problems: list[Problem]) -> list[dict[str, Any]]:
    rows = []
    for place in found:
        (begin, end), position = place.extent, place.position
        rows.append(
            {
                "stage": place.stage, "topic": place.topic, "partition": place.partition, "begin": begin, "end": end,
                "position": position, "records": place.behind,
            }
        )  # fmt: skip
        where = f"{place.topic}-{place.partition}"
        if position is not None and position > end:
            why = f"{where} ends at {end}, before the position {position}: it is not read"
            problems.append(Problem(place.stage, why, FORGET))
        elif position is not None and position < begin:
            why = f"{where}: retention took {pluralize(begin - position, 'record')} before they were read"
            problems.append(Problem(place.stage, why, KEEP))
    return rows


def _epoch(redis: RedisSnapshot) -> dict[str, Any]:
    if redis.state is None or redis.clock is None:
        return {"number": None}
    epoch, clock, now = redis.state.epoch, redis.clock, time.time()
    return {
        "number": epoch.number,
        "partitions": epoch.partitions,
        "windows": {name: format_duration(value) for name, value in msgspec.to_builtins(epoch.windows).items()},
        "horizon": None if clock.horizon is None else format_timestamp(clock.horizon),
        "horizon_delay_seconds": None if clock.horizon is None else round(now - clock.horizon / 1000, 1),
        "open_groups": clock.open_groups,
        "oldest_open": None if clock.first_open is None else format_timestamp(clock.first_open),
    }


def _memory(memory: Memory) -> dict[str, Any]:
    return {
        "used_bytes": memory.used,
        "max_bytes": memory.maximum,
        "used_share": round(memory.share, 3),
        "fragmentation_ratio": memory.fragmentation,
        "policy": memory.policy,
        "evicted_keys": memory.evicted,
    }


def _print(status: Mapping[str, Any]) -> None:
    for heading, text in [*_stages(status["lag"]), *_lines(status)]:
        click.echo(f"{heading:<9}{escape_unprintable(text)}")
    for problem in status["problems"]:
        since = f" (since {problem['since']})" if problem["since"] else ""
        click.echo(escape_unprintable(f"{problem['component']}: {problem['problem']}{since}"), err=True)
        if problem["hint"]:
            click.echo(f"  -> {escape_unprintable(problem['hint'])}", err=True)


def _stages(lag: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for stage in dict.fromkeys(row["stage"] for row in lag):
        behind = sorted(
            (row for row in lag if row["stage"] == stage and row["records"]), key=lambda row: -row["records"]
        )
        if not behind:
            yield stage, "caught up"
            continue
        places = [f"{row['partition']}: {row['records']:,}" for row in behind[:SHOWN]]
        more = [f"and {len(behind) - SHOWN} more"] if behind[SHOWN:] else []
        total = pluralize(sum(row["records"] for row in behind), "record")
        yield stage, f"{total} behind in {behind[0]['topic']}, by partition {', '.join(places + more)}"


def _lines(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    epoch, redis, worker = status["epoch"], status["redis"], status["worker"]
    if not epoch:
        yield "epoch", "unknown"
    elif epoch["number"] is None:
        yield "epoch", "none yet: no worker has begun"
    else:
        windows = ", ".join(f"{name} {length}" for name, length in epoch["windows"].items())
        yield "epoch", f"{epoch['number']}: {windows}, {pluralize(epoch['partitions'], 'partition')}"
        if epoch["horizon"]:
            yield "horizon", f"{epoch['horizon']}, {epoch['horizon_delay_seconds']:,} s behind the clock"
        else:
            yield "horizon", "none yet: not every partition of alerts has been read"
        oldest = f", the oldest from {epoch['oldest_open']}" if epoch["oldest_open"] else ""
        yield "open", f"{pluralize(epoch['open_groups'], 'group')}{oldest}"
    if status["closed_until"]:
        yield "closed", f"every storm that begins before {status['closed_until']}"
    memory = "unknown"
    if "policy" in redis:
        most = f" of {redis['max_bytes'] / 2**20:,.0f}" if redis["max_bytes"] else ", no limit,"
        memory = (
            f"{redis['used_bytes'] / 2**20:,.1f}{most} MiB used, {redis['policy']},"
            f" fragmentation {redis['fragmentation_ratio']}"
        )
    yield "redis", f"{redis['url']}: {memory}"
    unknown = "the worker here writes no storms" if worker["answers"] else "no worker answers here"
    yield "sink", status["sink"] or f"not known: {unknown}"
    where = "" if worker["answers"] else f" ({variable('http_address')} says where to ask)"
    says = "none answers" if not worker["answers"] else "ready" if worker["ready"] else "not ready"
    yield "worker", f"{worker['address']}: {says}{where}"
