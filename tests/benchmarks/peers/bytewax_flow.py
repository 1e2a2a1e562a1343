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

done = 0


def decoded(message: Any) -> tuple[str, datetime]:
    global done
    done += 1
    if done % 100 == 0:
        print("done", done, flush=True)
    labels = json.loads(message.value)["labels"]
    return labels["alertname"] + "/" + labels["cluster"], datetime.fromtimestamp(message.timestamp[1] / 1000, UTC)


flow = Dataflow("storms")
source = KafkaSource([os.environ["KAFKA"]], [os.environ["TOPIC"]], batch_size=1000)
keyed = op.map("decode", op.input("alerts", flow, source), decoded)
clock = windows.EventClock(lambda one: one[1], wait_for_system_duration=timedelta(seconds=10))
windower = windows.SessionWindower(timedelta(minutes=5))
counted = windows.count_window("count", keyed, clock, windower, lambda one: one[0])
op.output("counts", counted.down, TestingSink([]))

folder = Path(os.environ["FOLDER"])
init_db_dir(folder, 1)
cli_main(flow, epoch_interval=timedelta(seconds=10), recovery_config=RecoveryConfig(str(folder)))
