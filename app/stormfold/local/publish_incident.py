"""`python -m stormfold.local.publish_incident` publishes the demo's incident to Kafka in real time."""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from itertools import groupby

from stormfold.errors import StormfoldError
from stormfold.kafka.producer import Producer, ProducerRecord
from stormfold.local.incident import IncidentRecord, incident
from stormfold.settings import Settings
from stormfold.text import pluralize

INTERVAL = 0.05
"""Seconds. Records of one interval are sent together."""


async def publish_incident(
    settings: Settings,
    records: Sequence[IncidentRecord],
    on_published: Callable[[IncidentRecord], None] = lambda _: None,
) -> None:
    """Publishes each record at its time, then calls `on_published` with it. Raises `Retry` or `ActionRequired`."""
    producer = Producer(settings, "incident")
    began = time.monotonic()
    try:
        for number, group in groupby(records, key=lambda record: int(record.at / INTERVAL)):
            batch = list(group)
            await asyncio.sleep(max(0.0, began + number * INTERVAL - time.monotonic()))
            await asyncio.gather(
                *(
                    producer.send_record(settings.alerts_topic, ProducerRecord(None, record.value), record.headers)
                    for record in batch
                )
            )
            for record in batch:
                on_published(record)
    finally:
        # Everything sent is acknowledged, unless Kafka has ended: then it would be waited for without limit.
        await producer.abort()


def main() -> None:
    """Publishes the incident once."""
    settings = Settings()
    records = incident(seed=1, start=round(time.time() * 1000))
    alerts = pluralize(sum(record.alerts for record in records), "alert")
    print(f"Publishing an incident of {alerts} to {settings.alerts_topic}, for {records[-1].at:.0f} s ...", flush=True)
    asyncio.run(publish_incident(settings, records))
    print("Published. Its storms close after a short silence.")


if __name__ == "__main__":
    try:
        main()
    except StormfoldError as error:
        sys.exit(f"stormfold: {error}")
