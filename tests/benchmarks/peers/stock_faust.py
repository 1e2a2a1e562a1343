"""Faust as its documentation recommends: a stream grouped by key, a windowed table with a changelog."""

import os
import sys
from datetime import timedelta
from typing import Any

import faust

from tests.benchmarks.peers import members

PARTITIONS = int(os.environ["PARTITIONS"])
KEEPS_MEMBERS = os.environ["MEMBERS"] == "1"

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
windows = app.Table("windows", default=dict if KEEPS_MEMBERS else int).tumbling(
    timedelta(minutes=5), expires=timedelta(hours=1)
)
done = largest = 0


def group(alert: Alert) -> str:
    return members.group(alert.labels)


@app.agent(alerts)
async def process(stream: Any) -> None:
    global done, largest
    async for event in stream.group_by(group, name="group").events():
        alert = event.value
        if KEEPS_MEMBERS:
            window = windows[group(alert)]
            found = members.add(window.value(), *members.member(alert.labels, event.message.timestamp))
            windows[group(alert)] = found
            largest = max(largest, len(found))
        else:
            windows[group(alert)] += 1
        done += 1
        if done % 100 == 0:
            # The worker makes log records of what goes to `sys.stdout`.
            print("done", done, largest, file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    app.main()
