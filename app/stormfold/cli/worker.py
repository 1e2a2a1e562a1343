"""`stormfold worker`: what containers run."""

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
"""Longest farewell: who stops a worker kills it after 10 s or more."""
GC_THRESHOLD = 50_000
"""Batches make many short-lived objects without cycles; the default of 700 has the collector look at all of them."""


@click.command(
    epilog="""\b
Examples:
  stormfold worker
  stormfold worker --stages intake,fold --config stormfold.yaml
  STORMFOLD_SINK=kubernetes stormfold worker --stages emit

Exits with 0 when asked to stop, by SIGTERM or Ctrl-C; asked twice, it leaves at once: another worker does again, once,
what was not finished."""
)
@click.option("--stages", help="Only some of intake,fold,close,emit; by default all.")
@config_option
@click.option("--sink", help="kubernetes, directory:PATH or none; else STORMFOLD_SINK.")
def command(stages: str | None, config: Path | None, sink: str | None) -> None:
    """Run a worker against existing Kafka, Redis and sink, until SIGTERM or Ctrl-C."""
    given: dict[str, Any] = {"stages": stages, "config": config, "sink": sink}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    meaning = load(settings.config)
    logs.configure(settings.log_format, settings.log_level, logs.secrets_of(settings))
    uvloop.run(_run(settings, meaning))


async def _run(settings: Settings, meaning: Config) -> None:
    await _Process(settings, meaning).run()


class _Process(Worker):
    """A worker that has its process to itself."""

    async def start(self) -> None:
        await super().start()
        # What is there now stays until the end: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 20)

    async def stop(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, os._exit, 128 + number)
        loop.call_later(STOP_SECONDS, _leave)
        await super().stop()


def _leave() -> None:
    # Clients may wait for minutes, cancelled or not. To go in the middle is safe: no worse than to be killed.
    log.warning("a server does not answer: worker stopped without a farewell")
    sys.stdout.flush()
    os._exit(0)
