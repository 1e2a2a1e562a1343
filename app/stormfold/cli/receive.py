"""`stormfold receive`: takes alerts over HTTP and writes them to Kafka."""

import asyncio
import signal

import click
import uvloop

from stormfold import logs
from stormfold.receive.server import Receiver
from stormfold.settings import Settings


@click.command(
    epilog="""\b
Examples:
  stormfold receive
  STORMFOLD_RECEIVE_ADDRESS=0.0.0.0:9095 stormfold receive
  curl --data-binary @webhook.json http://127.0.0.1:9095/alerts

Alertmanager sends its webhooks to /alerts. Prometheus and other rulers send to it as to an Alertmanager. The answer is
200 when Kafka has everything, and 503 when the request must be sent again."""
)
@click.option("--address", metavar="HOST:PORT", help="Address to listen on; else STORMFOLD_RECEIVE_ADDRESS.")
def command(address: str | None) -> None:
    """Take alerts over HTTP and write them to Kafka, until SIGTERM or Ctrl-C."""
    settings = Settings(**({} if address is None else {"receive_address": address}))
    logs.configure(settings.log_format, settings.log_level, logs.secrets_of(settings))
    uvloop.run(_run(settings))


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    receiver = Receiver(settings)
    await receiver.start()
    try:
        await stop.wait()
    finally:
        await receiver.stop()
