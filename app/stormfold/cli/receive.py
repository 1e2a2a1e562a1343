"""`stormfold receive`: takes alerts over HTTP and writes them to Kafka."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import click
import uvloop

from stormfold import logs
from stormfold.cli.output import config_option
from stormfold.config import Config, load
from stormfold.receive.server import Receiver
from stormfold.settings import Settings


@click.command(
    epilog="""\b
Examples:
  stormfold receive
  STORMFOLD_RECEIVE_ADDRESS=0.0.0.0:9095 stormfold receive
  curl --data-binary @webhook.json http://127.0.0.1:9095/alerts

Alertmanager sends its webhooks to /alerts. Prometheus and other rulers send to it as to an Alertmanager. The answer is
200 when Kafka has everything, with the number of records and how many of them are invalid; 413 names alerts that are
too large for a record, when all others are in Kafka; after 503 the request must be sent again. A changed configuration
file applies at once, and at SIGHUP."""
)
@click.option("--address", metavar="HOST:PORT", help="Address to listen on; else STORMFOLD_RECEIVE_ADDRESS.")
@config_option
def command(address: str | None, config: Path | None) -> None:
    """Take alerts over HTTP and write them to Kafka, until SIGTERM or Ctrl-C."""
    given: dict[str, Any] = {"receive_address": address, "config": config}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    # Until the receiver handles it, there is nothing to reload.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    meaning = load(settings.config)
    logs.configure(settings.log_format, settings.log_level, logs.secrets_of(settings))
    uvloop.run(_run(settings, meaning))


async def _run(settings: Settings, config: Config) -> None:
    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    receiver = Receiver(settings, config)
    await receiver.start()
    reloading = asyncio.create_task(_reload(receiver, reload))
    try:
        await stop.wait()
    finally:
        reloading.cancel()
        await receiver.stop()


async def _reload(receiver: Receiver, requested: asyncio.Event) -> None:
    while await requested.wait():
        requested.clear()
        await receiver.reload()
