"""Quix Streams: a re-keyed dataframe and a window, state in RocksDB with a changelog."""

import os
from datetime import timedelta

from quixstreams import Application

app = Application(
    broker_address=os.environ["KAFKA"],
    consumer_group=os.environ["TOPIC"] + "-quix",
    auto_offset_reset="earliest",
    state_dir=os.environ["FOLDER"],
    loglevel="ERROR",
)
done = 0


def report(_: object) -> None:
    global done
    done += 1
    if done % 100 == 0:
        print("done", done, flush=True)


alerts = app.dataframe(app.topic(os.environ["TOPIC"], value_deserializer="json"))
alerts = alerts.group_by(lambda alert: alert["labels"]["alertname"] + "/" + alert["labels"]["cluster"], name="group")
alerts = alerts.update(report)
gap, grace = timedelta(minutes=5), timedelta(seconds=10)
if os.environ["WINDOWS"] == "session":
    alerts = alerts.session_window(inactivity_gap_ms=gap, grace_ms=grace).count().final()
else:
    alerts = alerts.tumbling_window(gap, grace_ms=grace).count().final()
app.run()
