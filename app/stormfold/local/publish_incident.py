"""`python -m stormfold.local.publish_incident` replays the demo's incident to Kafka in real time."""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from itertools import groupby

from stormfold.errors import StormfoldError
from stormfold.kafka.producer import Producer, ProducerRecord
from stormfold.local.incident import Told, incident
from stormfold.settings import Settings
from stormfold.text import pluralize

MOMENT = 0.05
"""Seconds; what is told within them is sent together."""


async def tell(settings: Settings, records: Sequence[Told], on_told: Callable[[Told], None] = lambda _: None) -> None:
    """Publishes each record at its time, then calls `on_told` with it. Raises `Retry` or `ActionRequired`."""
    producer = Producer(settings, "incident")
    began = time.monotonic()
    try:
        for moment, found in groupby(records, key=lambda told: int(told.at / MOMENT)):
            together = list(found)
            await asyncio.sleep(max(0.0, began + moment * MOMENT - time.monotonic()))
            await asyncio.gather(
                *(
                    producer.send_record(settings.alerts_topic, ProducerRecord(None, told.value), told.headers)
                    for told in together
                )
            )
            for told in together:
                on_told(told)
    finally:
        await producer.stop()


def main() -> None:
    """Tells it once."""
    settings = Settings()
    records = incident(seed=1, start=round(time.time() * 1000))
    alerts = sum(told.alerts for told in records)
    length = f"{records[-1].at:.0f} s"
    print(f"telling an incident of {pluralize(alerts, 'alert')} to {settings.alerts_topic}, {length}", flush=True)
    asyncio.run(tell(settings, records))
    print("told; the storms close once they have been quiet")


if __name__ == "__main__":
    try:
        main()
    except StormfoldError as error:
        sys.exit(f"stormfold: {error}")
