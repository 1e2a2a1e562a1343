"""Faust as its documentation recommends: a stream grouped by key, a windowed table with a changelog."""

import os
import sys
from datetime import timedelta
from typing import Any

import faust

PARTITIONS = int(os.environ["PARTITIONS"])

app = faust.App(
    os.environ["TOPIC"] + "-faust",
    broker="kafka://" + os.environ["KAFKA"],
    topic_partitions=PARTITIONS,
    datadir=os.environ["FOLDER"],
    consumer_auto_offset_reset="earliest",
)


class Alert(faust.Record):
    labels: dict[str, str]
    status: str


alerts = app.topic(os.environ["TOPIC"], value_type=Alert)
counts = app.Table("counts", default=int).tumbling(timedelta(minutes=5), expires=timedelta(hours=1))
done = 0


def group(alert: Alert) -> str:
    return alert.labels["alertname"] + "/" + alert.labels["cluster"]


@app.agent(alerts)
async def count(stream: Any) -> None:
    global done
    async for alert in stream.group_by(group, name="group"):
        counts[group(alert)] += 1
        done += 1
        if done % 100 == 0:
            # The worker makes log records of what goes to `sys.stdout`.
            print("done", done, file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    app.main()
