"""bytewax: keys within the process, session windows in event time, snapshots in its recovery store."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as windows
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main
from bytewax.testing import TestingSink

from tests.benchmarks.peers import members

KEEPS_MEMBERS = os.environ["MEMBERS"] == "1"
done = largest = 0

Alert = tuple[str, datetime, dict[str, str]]
"""Group, time, labels."""


def decoded(message: Any) -> Alert:
    labels = json.loads(message.value)["labels"]
    if not KEEPS_MEMBERS:
        report()
    return members.group(labels), datetime.fromtimestamp(message.timestamp[1] / 1000, UTC), labels


def report() -> None:
    global done
    done += 1
    if done % 100 == 0:
        print("done", done, largest, flush=True)


def collected(found: members.Members, alert: Alert) -> members.Members:
    global largest
    _, time, labels = alert
    members.add(found, *members.member(labels, time.timestamp()))
    largest = max(largest, len(found))
    report()
    return found


flow = Dataflow("storms")
source = KafkaSource([os.environ["KAFKA"]], [os.environ["TOPIC"]], batch_size=1000)
alerts = op.map("decode", op.input("alerts", flow, source), decoded)
clock = windows.EventClock(lambda alert: alert[1], wait_for_system_duration=timedelta(seconds=10))
windower = windows.SessionWindower(timedelta(minutes=5))
if KEEPS_MEMBERS:
    keyed = op.key_on("group", alerts, lambda alert: alert[0])
    closed = windows.fold_window("members", keyed, clock, windower, dict, collected, members.merge, ordered=False)
else:
    closed = windows.count_window("count", alerts, clock, windower, lambda alert: alert[0])
op.output("closed", closed.down, TestingSink([]))

folder = Path(os.environ["FOLDER"])
init_db_dir(folder, 1)
cli_main(flow, epoch_interval=timedelta(seconds=10), recovery_config=RecoveryConfig(str(folder)))
