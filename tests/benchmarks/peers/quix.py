"""Quix Streams: a re-keyed dataframe and a window, state in RocksDB with a changelog."""

import os
from datetime import timedelta
from typing import Any

from quixstreams import Application
from quixstreams.dataframe.windows import Aggregator, Count

from tests.benchmarks.peers import members

app = Application(
    broker_address=os.environ["KAFKA"],
    consumer_group=os.environ["TOPIC"] + "-quix",
    auto_offset_reset="earliest",
    state_dir=os.environ["FOLDER"],
    loglevel="ERROR",
)
done = largest = 0


def report(_: object) -> None:
    global done
    done += 1
    if done % 100 == 0:
        print("done", done, largest, flush=True)


class Collect(Aggregator):
    """Keeps the members of the window."""

    def initialize(self) -> members.Members:
        return {}

    def agg(self, old: members.Members, new: Any, timestamp: int) -> members.Members:
        global largest
        found = members.add(old, *members.member(new["labels"], timestamp))
        largest = max(largest, len(found))
        return found

    def result(self, value: members.Members) -> int:
        return len(value)

    def merge(self, a: members.Members, b: members.Members) -> members.Members:
        return members.merge(a, b)


alerts = app.dataframe(app.topic(os.environ["TOPIC"], value_deserializer="json"))
alerts = alerts.group_by(lambda alert: members.group(alert["labels"]), name="group")
alerts = alerts.update(report)
gap, grace = timedelta(minutes=5), timedelta(seconds=10)
if os.environ["WINDOWS"] == "session":
    windows = alerts.session_window(inactivity_gap_ms=gap, grace_ms=grace)
else:
    windows = alerts.tumbling_window(gap, grace_ms=grace)
windows.agg(found=Collect() if os.environ["MEMBERS"] == "1" else Count()).final()
app.run()
