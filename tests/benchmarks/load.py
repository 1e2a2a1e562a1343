"""The alerts of the benchmarks: Prometheus alerts about crashing pods, about 450 bytes each."""

import random
import time
from collections.abc import Iterator

import msgspec

from stormfold.times import format_timestamp
from tests.benchmarks.bench import PARTITIONS
from tests.support.alerts import Sent

SPREAD_MS = 8_000
"""Time that a backlog covers (ms): less than the grace, because the progress of waiting workers is the present."""


def alert(series: int, group: int, begin: int | None = None) -> bytes:
    """Returns the alert of a series in a group, both given by number.

    It began at `begin` (ms), by default so recently that it is new to the default configuration for minutes.
    """
    if begin is None:
        begin = time.time_ns() // 1_000_000 - SPREAD_MS
    labels = {
        "alertname": f"KubePodCrashLooping{group}", "cluster": "prod-eu-west-1", "severity": "critical",
        "namespace": f"payments-{series % 30}", "pod": f"api-7d9f6c5b4-{series:07d}", "container": "api",
        "job": "kube-state-metrics", "prometheus": "monitoring/k8s",
    }  # fmt: skip
    annotations = {
        "summary": "Pod is crash looping.",
        "runbook_url": "https://runbooks.example.com/kubernetes/kubepodcrashlooping",
    }
    starts_at = format_timestamp(begin)
    return msgspec.json.encode(
        {"labels": labels, "annotations": annotations, "status": "firing", "startsAt": starts_at}
    )


def backlog(
    alerts: int, series: int, groups: int = 300, *, each: int = 1, partitions: int = PARTITIONS,
    spread: int = SPREAD_MS, until: int | None = None,
) -> Iterator[Sent]:  # fmt: skip
    """Yields records of `each` alerts of `series` series in `groups` groups, over the last `spread` ms.

    Every series has one alert before any has a second. Every alert begins with the backlog.
    """
    rng = random.Random(series)
    end = until or time.time_ns() // 1_000_000
    known = [alert(one, one % groups, end - spread) for one in range(series)]
    records = alerts // each
    for number in range(records):
        drawn = [known[one] if (one := number * each + index) < series else rng.choice(known) for index in range(each)]
        value = drawn[0] if each == 1 else b"[" + b",".join(drawn) + b"]"
        yield Sent(end - spread + spread * number // records, value, number % partitions)
