"""`stormfold up`: Kafka, Redis and a worker on this machine, for one's own alerts."""

import asyncio
import shlex
import time
from pathlib import Path

import click

from stormfold.cli.output import config_option
from stormfold.config import Config, load
from stormfold.health import Health
from stormfold.local.stack import (
    Stack,
    follow_storms,
    interruptible,
    lock_directory,
    log_to,
    port_or_any,
    run,
    run_in_background,
    working,
)
from stormfold.settings import Settings, variable
from stormfold.storm import Aggregate
from stormfold.text import escape_unprintable, pluralize
from stormfold.times import format_duration
from stormfold.worker import Worker

LOOK_EVERY = 1.0
"""Seconds between two looks at the worker's health."""
EXAMPLE = '{"labels": {"alertname": "DiskFull", "cluster": "prod", "node": "worker-\'$n\'"}}'
Port = click.IntRange(1, 65_535)


@click.command(
    epilog="""\b
Examples:
  stormfold up
  stormfold up --config stormfold.yaml --output storms
  stormfold up --kafka-port 19092 --redis-port 16379"""
)
@config_option
@click.option(
    "--data",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of all data, kept between runs; else `up` in STORMFOLD_DATA_DIR.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for manifests; else `storms` in the folder of the data.",
)
@click.option("--kafka-port", type=Port, metavar="PORT", help="By default 9092, or any other where that is taken.")
@click.option("--redis-port", type=Port, metavar="PORT", help="By default 6379, likewise.")
@click.option(
    "--http-port",
    type=Port,
    metavar="PORT",
    help="For health and metrics; else STORMFOLD_HTTP_ADDRESS, by default 8080, likewise.",
)
def command(
    config: Path | None,
    folder: Path | None,
    output: Path | None,
    kafka_port: int | None,
    redis_port: int | None,
    http_port: int | None,
) -> None:
    """Run Kafka, Redis and a worker on this machine until Ctrl-C; say where to publish, and each storm that closes."""
    environment = Settings()
    meaning = load(config or environment.config)
    folder = (folder or environment.data_dir / "up").absolute()
    with lock_directory(folder, "choose another folder with --data"), interruptible():
        stack = Stack(folder, _say, kafka_port or port_or_any(9092), redis_port or port_or_any(6379))
        try:
            with stack.running():
                settings = stack.settings(
                    sink=f"directory:{(output or folder / 'storms').absolute()}",
                    http_address=_http(environment, http_port),
                )
                log_to(folder / "worker.log", settings.log_level)
                run(_serve(settings, meaning, folder))
        except KeyboardInterrupt:
            # It is how this command is meant to end.
            _say(f"Stopped. The data stays in {folder}")


def _http(environment: Settings, port: int | None) -> str:
    """Where to serve health: what was asked for, else the usual place, or any where that is taken."""
    if port:
        return f"127.0.0.1:{port}"
    usual = environment.http_address == Settings.model_fields["http_address"].default
    return "127.0.0.1:0" if usual and port_or_any(environment.http_bind[1]) is None else environment.http_address


async def _serve(settings: Settings, config: Config, folder: Path) -> None:
    async with (
        working(settings, config) as worker,
        run_in_background(follow_storms(settings, _storm, past=False)),
    ):
        _addresses(settings, config, worker, folder)
        await _watch(worker.health)


async def _watch(health: Health) -> None:
    """Says what goes wrong, and that it is over."""
    before: dict[str, str] = {}
    while True:
        await asyncio.sleep(LOOK_EVERY)
        now = {name: reported.problem for name, reported in health.reported.items()}
        for name in now.keys() | before.keys():
            if now.get(name) != before.get(name):
                _say(f"{time.strftime('%H:%M:%S')}  {name}: {escape_unprintable(now.get(name) or 'well again')}")
        before = now


def _storm(storm: Aggregate) -> None:
    resources = pluralize(storm.resource_count, "resource")
    _say(
        f"{time.strftime('%H:%M:%S')}  {storm.aggregate_class:8}  {escape_unprintable(storm.severity):8}"
        f"  {escape_unprintable(storm.pattern)}, {pluralize(storm.alert_count, 'alert')}, {resources}"
    )


def _addresses(settings: Settings, config: Config, worker: Worker, folder: Path) -> None:
    windows = config.windows
    quiet = format_duration(windows.gap + windows.grace)
    http = f"{settings.http_address.rpartition(':')[0]}:{worker.web.port}"
    here = {
        "kafka_bootstrap_servers": settings.kafka_bootstrap_servers,
        "redis_url": settings.redis_url,
        "http_address": http,
    }
    usual = {name: Settings.model_fields[name].default for name in here}
    exports = [f"export {variable(name)}={shlex.quote(value)}" for name, value in here.items() if value != usual[name]]
    _say(
        f"""
stormfold is up until Ctrl-C; what is in it stays.

  Kafka     {settings.kafka_bootstrap_servers}, topic {settings.alerts_topic}
  Redis     {settings.redis_url}
  health    http://{http}/readyz
  storms    {settings.sink.removeprefix("directory:")}
  logs      {folder / "worker.log"}

From another terminal:
{"".join(f"{chr(10)}  {line}" for line in exports)}
  for n in 1 2 3 4 5; do echo '{EXAMPLE}'; done |
    stormfold publish -      # or: kcat -P -b {settings.kafka_bootstrap_servers} -t {settings.alerts_topic}

Five nodes are a storm. It closes when it has been quiet for {quiet}, and is told here:
"""
    )


def _say(text: str) -> None:
    click.echo(text)
