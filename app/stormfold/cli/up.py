"""`stormfold up`: Kafka, Redis and a worker on this machine, for the user's own alerts."""

import asyncio
import os
import re
import shlex
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import click

from stormfold.cli.output import config_option, program
from stormfold.config import Config, load
from stormfold.errors import ActionRequired, StormfoldError
from stormfold.health import Problem
from stormfold.incident import Incident
from stormfold.local.process import HOST, port_is_free
from stormfold.local.stack import (
    Stack,
    follow_aggregates,
    follow_incidents,
    free_or_none,
    interruptible,
    lock_directory,
    log_to,
    run,
    run_in_background,
    running_worker,
    stop_within,
)
from stormfold.receive.server import Receiver
from stormfold.settings import Settings, variable
from stormfold.storm import Aggregate
from stormfold.text import escape_unprintable, pluralize
from stormfold.times import format_duration
from stormfold.worker import Worker

INTERVAL = 1.0
"""Seconds between two checks of the worker's health."""
ANSWER_SECONDS = 2.0
"""Longest wait for the answers to requests in hand when the command ends; their senders repeat them."""
EXAMPLE = '{"labels": {"alertname": "DiskFull", "cluster": "prod", "node": "node-\'$n\'"}}'
RECEIVE_SETTINGS = [name for name in Settings.model_fields if name.startswith("receive_") and name != "receive_address"]
"""Who may send, and the certificate: `up` takes these from the environment."""
OWN_SETTINGS = re.compile("kafka_.+|redis_.+|.+_topic|group_prefix|http_address")
"""Servers, topics and prefixes: `up` has its own, and takes none from the environment but the HTTP address."""
PORT = click.IntRange(1, 65_535)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(
    epilog="""\b
Examples:
  stormfold up
  stormfold up --config stormfold.yaml --output storms
  stormfold up --kafka-port 19092 --redis-port 16379

Ends within 10 s, whatever its servers do. Exits with 1, and reports the log to read, if Kafka or Redis ends.
A changed configuration file is read again."""
)
@config_option
@click.option(
    "--data", "folder", type=FOLDER, help="Folder of all data, kept between runs; default: `up` in STORMFOLD_DATA_DIR."
)
@click.option("--output", type=FOLDER, help="Folder for manifests; default: `storms` in the data folder.")
@click.option("--kafka-port", type=PORT, metavar="PORT", help="Port of Kafka; default: 9092 if free, else any.")
@click.option("--redis-port", type=PORT, metavar="PORT", help="Port of Redis; default: 6379 if free, else any.")
@click.option(
    "--http-port",
    type=PORT,
    metavar="PORT",
    help="Port of health, metrics and status page; default: STORMFOLD_HTTP_ADDRESS, or 8080 if free, else any.",
)
@click.option(
    "--receive-port",
    type=PORT,
    metavar="PORT",
    help="Port for alerts over HTTP; default: STORMFOLD_RECEIVE_ADDRESS, or 9095 if free, else any.",
)
@click.option("--no-receive", is_flag=True, help="Take no alerts over HTTP.")
def command(
    config: Path | None, folder: Path | None, output: Path | None, kafka_port: int | None, redis_port: int | None,
    http_port: int | None, receive_port: int | None, no_receive: bool,
) -> None:  # fmt: skip
    """Run Kafka, Redis, a worker and a receiver on this machine until Ctrl-C; print each storm that closes."""
    environment = Settings()
    for port, option, purpose in (
        (http_port, "--http-port", "the status page cannot be served"),
        (receive_port, "--receive-port", "no alerts can be received"),
    ):
        if port and not port_is_free(port):
            raise ActionRequired(
                f"port {port} is in use, so {purpose} there",
                f"stop the program that listens there, or use another {option}",
            )
    config = config or environment.config
    loaded = load(config)
    folder = (folder or environment.data_dir / "up").absolute()
    with lock_directory(folder, "choose another folder with --data"), interruptible():
        stack = Stack(folder, click.echo, kafka_port or free_or_none(9092), redis_port or free_or_none(6379))
        try:
            with stack.running():
                settings = stack.settings(
                    config=config,
                    sink=f"directory:{(output or folder / 'storms').absolute()}",
                    http_address=_address(environment, "http_address", http_port),
                    receive_address=_address(environment, "receive_address", receive_port),
                    **{name: getattr(environment, name) for name in RECEIVE_SETTINGS},
                )
                log_to(folder / "worker.log", settings.log_level)
                run(_serve(stack, settings, loaded, folder, receive=not no_receive))
        except KeyboardInterrupt:
            # The normal end of this command.
            click.echo(f"Stopped. The data stay in {folder}")


def _address(environment: Settings, name: str, port: int | None) -> str:
    """The address to listen on: the given port, else the setting, or any port if its default is in use."""
    address: str = getattr(environment, name)
    if port:
        return f"{HOST}:{port}"
    is_default = address == Settings.model_fields[name].default
    return f"{HOST}:0" if is_default and free_or_none(int(address.rpartition(":")[2])) is None else address


async def _serve(stack: Stack, settings: Settings, config: Config, folder: Path, *, receive: bool) -> None:
    async with AsyncExitStack() as running:
        await running.enter_async_context(run_in_background(stack.watch()))
        worker = await running.enter_async_context(running_worker(settings, config))
        receiver = await running.enter_async_context(_running_receiver(settings, config)) if receive else None
        await running.enter_async_context(run_in_background(_follow(settings)))
        click.echo(_introduction(settings, config, worker, receiver, folder))
        await _report_problems(worker)


@asynccontextmanager
async def _running_receiver(settings: Settings, config: Config) -> AsyncIterator[Receiver]:
    """Runs a receiver in this process. Raises `ActionRequired` if its address or its files cannot be used."""
    receiver = Receiver(settings, config)
    await receiver.start()
    try:
        yield receiver
    finally:
        await stop_within(receiver.stop(), ANSWER_SECONDS, ANSWER_SECONDS)


async def _follow(settings: Settings) -> None:
    """Prints each aggregate and incident, also after Kafka did not answer; the worker reports that."""
    while True:
        with suppress(StormfoldError):
            async with run_in_background(follow_incidents(settings, _print_incident, past=False)):
                await follow_aggregates(settings, _print_aggregate, past=False)
        await asyncio.sleep(INTERVAL)


async def _report_problems(worker: Worker) -> None:
    """Prints each new problem of a component or warning about it, and its end; also that the configuration changed."""
    before: Mapping[str, Problem] = {}
    applied = worker.configuration.current
    while True:
        await asyncio.sleep(INTERVAL)
        if applied is not worker.configuration.current:
            applied = worker.configuration.current
            click.echo(f"{_clock()}  configuration: reloaded")
        now = worker.health.warnings | worker.health.reported
        for name in sorted(before.keys() - now.keys()):
            click.echo(f"{_clock()}  {name}: recovered")
        for name, found in sorted(now.items()):
            if name not in before or before[name].problem != found.problem:
                click.echo(f"{_clock()}  {name}: {escape_unprintable(found.problem)}")
                if found.hint:
                    click.echo(f"          -> {escape_unprintable(found.hint)}")
        before = now


def _print_aggregate(aggregate: Aggregate) -> None:
    counts = f"{pluralize(aggregate.alert_count, 'alert')}, {pluralize(aggregate.resource_count, 'resource')}"
    severity, pattern = escape_unprintable(aggregate.severity), escape_unprintable(aggregate.pattern)
    click.echo(f"{_clock()}  {aggregate.aggregate_class:8}  {severity:8}  {pattern}, {counts}")


def _print_incident(incident: Incident) -> None:
    counts = f"{pluralize(incident.alert_count, 'alert')}, {pluralize(incident.storm_count, 'storm')}"
    severity, first = escape_unprintable(incident.severity), escape_unprintable(incident.first_pattern)
    click.echo(f"{_clock()}  Incident  {severity:8}  {incident.name}, {counts}, started with {first}")


def _introduction(settings: Settings, config: Config, worker: Worker, receiver: Receiver | None, folder: Path) -> str:
    """Addresses and folders, and what to do next."""
    scheme = "https" if settings.receive_ssl_certfile else "http"
    received = f"{scheme}://{settings.receive_bind[0]}:{receiver.port}/alerts" if receiver else "off"
    quiet = format_duration(config.windows.gap + config.windows.grace)
    http = f"{settings.http_address.rpartition(':')[0]}:{worker.web.port}"
    values = {
        "kafka_bootstrap_servers": settings.kafka_bootstrap_servers,
        "redis_url": settings.redis_url,
        "http_address": http,
    }
    lines = "".join(f"\n  {line}" for line in shell_lines(values, os.environ))
    return f"""
stormfold is running. Ctrl-C stops it; the data are kept.

  Kafka        {settings.kafka_bootstrap_servers}, topic {settings.alerts_topic}
  Redis        {settings.redis_url}
  over HTTP    {received}
  status page  http://{http}/
  manifests    {settings.sink.removeprefix("directory:")}
  log          {folder / "worker.log"}

To publish alerts, in another terminal:
{lines}
  for n in 1 2 3 4 5; do echo '{EXAMPLE}'; done |
    {program()} publish -      # or: kcat -P -b {settings.kafka_bootstrap_servers} -t {settings.alerts_topic}

These five alerts become one storm. It closes after {quiet} without a new alert, and appears here:
"""


def shell_lines(values: Mapping[str, str], environment: Mapping[str, str]) -> list[str]:
    """Lines for a shell with this environment, after which its commands use `values`.

    The other `OWN_SETTINGS` then have their defaults, as in `up`: the environment may describe other servers.
    """
    defaults = {
        variable(name): field.default for name, field in Settings.model_fields.items() if OWN_SETTINGS.fullmatch(name)
    }
    exports = {variable(name): value for name, value in values.items() if value != defaults[variable(name)]}
    others = [
        name
        for name, value in environment.items()
        if value and name not in exports and value != defaults.get(name.upper(), value)
    ]
    unset = [f"unset {' '.join(sorted(others))}"] if others else []
    return unset + [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]


def _clock() -> str:
    return time.strftime("%H:%M:%S")
