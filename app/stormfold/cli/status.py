"""`stormfold status`: lag of each stage, open groups, Redis memory, and the problems of a worker on this machine."""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import aiohttp
import click
import msgspec
from yarl import URL

from stormfold.cli.output import Output, emit_document, output_option, print_problem
from stormfold.errors import ActionRequired, StormfoldError
from stormfold.kafka.client import open_admin
from stormfold.kafka.reader import open_reader
from stormfold.kafka.topics import partitions_of
from stormfold.kafka.transactions import describe
from stormfold.positions import Position, Verdict, check_position
from stormfold.redis.client import connect
from stormfold.redis.memory import Memory
from stormfold.redis.store import Store
from stormfold.settings import Settings, variable
from stormfold.status.snapshot import (
    STAGES,
    KafkaSnapshot,
    RedisSnapshot,
    StagePosition,
    closed_until,
    snapshot_kafka,
    snapshot_redis,
    stage_positions,
    topic_of,
)
from stormfold.text import escape_unprintable, pluralize
from stormfold.times import format_duration, format_timestamp

SERVER_TIMEOUT = 15.0
"""Seconds to wait for Kafka or Redis: longer than a slow server takes, but not forever for one that hangs."""
WORKER_TIMEOUT = 2.0
"""Seconds to wait for the worker on this machine."""
TRANSACTION_SECONDS = 1.0
"""A transaction that is open for longer than this is a warning."""
MIN_FRAGMENTED = 100_000_000
"""Bytes in use below which fragmentation is not shown: the program itself then takes the larger part."""
MAX_PARTITIONS = 8
"""Partitions of a stage in the table, those with the largest lag."""
WIDTH = 15
"""Characters of the first column of the table."""
EXPIRED_HINT = "raise its retention above the longest outage; `stormfold audit` shows how many alerts are missing"
RECREATED_HINT = "if the topic was recreated, stop the workers and run `stormfold topics --reset-positions`"

_T = TypeVar("_T")


class Problem(msgspec.Struct):
    """Something that is wrong, and what a person can do."""

    component: str
    problem: str
    hint: str | None = None
    since: str | None = None


class Worker(msgspec.Struct):
    """The answer of a worker at `/readyz`."""

    ready: bool
    problems: list[Problem]
    warnings: list[Problem] = []
    sink: str | None = None
    """Where it writes resources; None if it does not run emit."""


@click.command(
    epilog="""\b
Examples:
  stormfold status
  stormfold status -o json | jq '.lag[] | select(.records > 0)'

The lag counts records that can be read. Records of an open transaction, and all after them, are counted apart.

Exits with 1 if there is a problem: Kafka or Redis does not answer, a topic is missing, records were lost, a partition
is not read, Redis may evict keys, or the worker at STORMFOLD_HTTP_ADDRESS is not ready. Lag is not a problem, and
nor are warnings."""
)
@output_option
@click.pass_context
def command(ctx: click.Context, output: Output) -> None:
    """Show lag per stage and partition, horizon, open groups, Redis memory, and the sink."""
    status = asyncio.run(collect(Settings()))
    if output == "table":
        for heading, text in [*_stage_lines(status["lag"]), *_lines(status)]:
            click.echo(f"{heading:<{WIDTH}}{escape_unprintable(text)}")
        for problem in [*status["problems"], *status["warnings"]]:
            since = f" (since {problem['since']})" if problem["since"] else ""
            print_problem(f"{problem['component']}: {problem['problem']}{since}", problem["hint"])
    else:
        emit_document(status, output)
    ctx.exit(1 if status["problems"] else 0)


async def collect(settings: Settings) -> dict[str, Any]:
    """The status as plain data. Servers that do not answer are among the `problems`; the rest is reported as usual."""
    problems: list[Problem] = []
    warnings: list[Problem] = []

    async def ask(component: str, request: Awaitable[_T]) -> _T | None:
        try:
            async with asyncio.timeout(SERVER_TIMEOUT):
                return await request
        except TimeoutError:
            problems.append(Problem(component, f"no answer within {SERVER_TIMEOUT:.0f} s"))
        except StormfoldError as error:
            problems.append(Problem(component, str(error), error.hint))
        return None

    async with connect(settings) as client:
        kafka, redis, worker = await asyncio.gather(
            ask("kafka", _ask_kafka(settings, problems, warnings)),
            ask("redis", snapshot_redis(Store(client, settings.redis_prefix))),
            _ask_worker(settings),
        )
    positions = [] if kafka is None else list(stage_positions(settings, kafka, redis))
    problems += _position_problems(positions)
    if redis is not None:
        try:
            redis.memory.check_eviction()
        except ActionRequired as error:
            problems.append(Problem("redis", str(error), error.hint))
    if worker is not None:
        problems += [Problem(f"worker: {p.component}", p.problem, p.hint, p.since) for p in worker.problems]
        warnings += [Problem(f"worker: {p.component}", p.problem, p.hint, p.since) for p in worker.warnings]
    closed = None if kafka is None else closed_until(kafka)
    return {
        "lag": [at._asdict() | {"records": at.lag, "unstable_records": at.unstable} for at in positions],
        "state_version": {} if redis is None else _state_version(redis),
        "closed_until": None if closed is None else format_timestamp(closed),
        "redis": {"url": settings.redis_url_safe} | ({} if redis is None else _memory(redis.memory)),
        # Not the setting of this command: what the worker uses.
        "sink": None if worker is None else worker.sink,
        "worker": {"address": settings.http_address, "answers": worker is not None, "ready": worker and worker.ready},
        "problems": msgspec.to_builtins(problems),
        "warnings": msgspec.to_builtins(warnings),
    }


async def _ask_kafka(settings: Settings, problems: list[Problem], warnings: list[Problem]) -> KafkaSnapshot:
    async with open_admin(settings) as admin, open_reader(settings) as reader:
        found = await snapshot_kafka(settings, admin, reader)
        if before := found.open_transactions:
            await asyncio.sleep(TRANSACTION_SECONDS)
            found = await snapshot_kafka(settings, admin, reader)
            warnings += _transaction_warnings(settings, before & found.open_transactions)
    missing = dict.fromkeys(topic_of(settings, stage) for stage in STAGES if stage not in found.topics)
    for topic in missing:
        try:
            await partitions_of(settings, topic)
        except StormfoldError as error:
            # The topic is missing, or this user may not see it.
            problems.append(Problem("kafka", str(error), error.hint))
    return found


async def _ask_worker(settings: Settings) -> Worker | None:
    """The answer of the worker at `STORMFOLD_HTTP_ADDRESS`; None if no worker answers there."""
    host, port = settings.http_bind
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    if port == 0:
        return None
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(WORKER_TIMEOUT)) as session,
            session.get(URL.build(scheme="http", host=local, port=port, path="/readyz")) as response,
        ):
            return msgspec.json.decode(await response.read(), type=Worker)
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError):
        return None


def _position_problems(positions: Iterable[StagePosition]) -> Iterator[Problem]:
    for stage, topic, partition, begin, end, _, position in positions:
        verdict = Verdict.VALID if position is None else check_position(Position(position), begin, end)
        if verdict is Verdict.RECREATED:
            problem = f"{topic}-{partition} ends at {end}, before the position {position}: it is not read"
            yield Problem(stage, problem, RECREATED_HINT)
        elif verdict is Verdict.EXPIRED:
            lost = pluralize(begin - (position or 0), "record")
            yield Problem(stage, f"{topic}-{partition}: retention deleted {lost} before they were read", EXPIRED_HINT)


def _transaction_warnings(settings: Settings, lasting: Iterable[tuple[str, int, int]]) -> Iterator[Problem]:
    stable: dict[str, dict[int, int]] = {}
    for stage, partition, offset in lasting:
        stable.setdefault(stage, {})[partition] = offset
    for stage, offsets in stable.items():
        yield Problem(stage, *describe(topic_of(settings, stage), offsets))


def _state_version(redis: RedisSnapshot) -> dict[str, Any]:
    if redis.state is None or redis.clock is None:
        return {"number": None}
    version, clock = redis.state.version, redis.clock
    windows = msgspec.to_builtins(version.windows)
    return {
        "number": version.number,
        "partitions": version.partitions,
        "windows": {name: format_duration(length) for name, length in windows.items()},
        "horizon": None if clock.horizon is None else format_timestamp(clock.horizon),
        "horizon_delay_seconds": None if clock.horizon is None else round(time.time() - clock.horizon / 1000, 1),
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


def _stage_lines(lag: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    by_stage: dict[str, list[Mapping[str, Any]]] = {}
    for row in lag:
        by_stage.setdefault(row["stage"], []).append(row)
    for stage in sorted(by_stage, key=STAGES.index):
        rows = by_stage[stage]
        total, partitions = _by_partition(rows, "records")
        text = f"lag of {total} in {rows[0]['topic']}, by partition {partitions}" if partitions else "no lag"
        total, partitions = _by_partition(rows, "unstable_records")
        yield stage, text + (f"; {total} in open transactions, by partition {partitions}" if partitions else "")


def _by_partition(rows: Iterable[Mapping[str, Any]], field: str) -> tuple[str, str]:
    """The total of a field, and its largest values by partition; empty if all are 0."""
    found = sorted(((row[field], row["partition"]) for row in rows if row[field]), key=lambda value: -value[0])
    partitions = [f"{partition}: {number:,}" for number, partition in found[:MAX_PARTITIONS]]
    if len(found) > MAX_PARTITIONS:
        partitions.append(f"and {len(found) - MAX_PARTITIONS} more")
    return pluralize(sum(number for number, _ in found), "record"), ", ".join(partitions)


def _lines(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    version, redis, worker = status["state_version"], status["redis"], status["worker"]
    if not version:
        yield "state", "unknown"
    elif version["number"] is None:
        yield "state", "none yet: no worker has folded an alert"
    else:
        windows = ", ".join(f"{name} {length}" for name, length in version["windows"].items())
        yield "state", f"version {version['number']}: {windows}, {pluralize(version['partitions'], 'partition')}"
        if version["horizon"]:
            yield "horizon", f"{version['horizon']}, {version['horizon_delay_seconds']:,} s behind the clock"
        else:
            yield "horizon", "none yet: not every partition of alerts has been read"
        oldest = f", the oldest from {version['oldest_open']}" if version["oldest_open"] else ""
        yield "open", f"{pluralize(version['open_groups'], 'group')}{oldest}"
    if status["closed_until"]:
        yield "closed", f"every storm that begins before {status['closed_until']}"
    memory = "unknown"
    if "policy" in redis:
        limit = f" of {redis['max_bytes'] / 2**20:,.0f}" if redis["max_bytes"] else ", no limit,"
        memory = f"{redis['used_bytes'] / 2**20:,.1f}{limit} MiB used, {redis['policy']}"
        if redis["used_bytes"] > MIN_FRAGMENTED:
            memory += f", fragmentation {redis['fragmentation_ratio']}"
    yield "redis", f"{redis['url']}: {memory}"
    if worker["answers"]:
        yield "sink", status["sink"] or "unknown: the worker here does not run emit"
        yield "worker", f"{worker['address']}: {'ready' if worker['ready'] else 'not ready'}"
    else:
        yield "sink", "unknown: no worker answers here"
        yield "worker", f"{worker['address']}: no answer ({variable('http_address')} is the address of the worker)"
