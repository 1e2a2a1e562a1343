"""`stormfold worker`: the command that containers run."""

import asyncio
import gc
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click
import structlog
import uvloop

from stormfold import logs
from stormfold.cli.output import config_option
from stormfold.config import Config, load
from stormfold.settings import Settings
from stormfold.worker import Worker

log = structlog.get_logger(__name__)

STOP_SECONDS = 8.0
"""Longest clean stop: supervisors kill a process after 10 s or more."""
GC_THRESHOLD = 100_000
"""Batches create many short-lived objects without cycles. With the default of 700 the collector would scan them all."""


@click.command(
    epilog="""\b
Examples:
  stormfold worker
  stormfold worker --stages intake,fold --config stormfold.yaml
  STORMFOLD_SINK=kubernetes stormfold worker --stages emit

SIGTERM or Ctrl-C stops it cleanly, with exit code 0. A second signal exits immediately: another worker repeats the
unfinished work, and every alert is still counted once. The configuration file is read again when it changes, and on
SIGHUP; one that cannot be used is refused, and the one before applies."""
)
@click.option("--stages", help="Stages to run, of intake,fold,close,correlate,emit; default: all.")
@config_option
@click.option("--sink", help="kubernetes, directory:PATH or none; default: STORMFOLD_SINK.")
def command(stages: str | None, config: Path | None, sink: str | None) -> None:
    """Run a worker with existing Kafka, Redis and sink, until SIGTERM or Ctrl-C."""
    # Until the worker handles it, there is nothing to reload.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    given: dict[str, Any] = {"stages": stages, "config": config, "sink": sink}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    loaded = load(settings.config)
    logs.configure(settings.log_format, settings.log_level, logs.secrets_of(settings))
    uvloop.run(_run(settings, loaded))


async def _run(settings: Settings, config: Config) -> None:
    await _Process(settings, config).run()


class _Process(Worker):
    """A worker that is the only one in its process."""

    async def start(self) -> None:
        await super().start()
        # Objects created so far live until the end: the collector need not scan them again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 20)

    async def stop(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, os._exit, 128 + number)
        loop.call_later(STOP_SECONDS, _exit_now)
        await super().stop()


def _exit_now() -> None:
    # Clients can hang for minutes even if they are cancelled. To exit here is as safe as to be killed.
    log.warning("worker stopped without a clean shutdown: a server does not answer", waited_seconds=STOP_SECONDS)
    sys.stdout.flush()
    os._exit(0)
