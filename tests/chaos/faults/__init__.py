"""The faults. Each is a context manager that breaks a real server or worker on entry and repairs it on exit."""

from stormfold.sinks.kubernetes import REQUEST_SECONDS
from tests.chaos.faults.fault import Fault
from tests.chaos.faults.kafka import (
    alerts_partition_added,
    alerts_partition_read,
    broker_frozen,
    broker_killed,
    broker_restarted,
    kafka_frozen,
    kafka_killed,
    keyed_partition_added,
    leaders_settled,
    storms_partition_added,
)
from tests.chaos.faults.network import NARROW, answers_late, api_ways, cut, kafka_ways, poisoned, redis_ways
from tests.chaos.faults.producers import clocks_skewed
from tests.chaos.faults.redis import (
    redis_asleep,
    redis_failed_over,
    redis_flushed,
    redis_forgot_scripts,
    redis_full,
    redis_killed,
    redis_paused,
    redis_truncated,
)
from tests.chaos.faults.sinks import definition_removed, disk_full, felt, namespace_deleted, outage
from tests.chaos.faults.workers import worker_added, worker_frozen, worker_killed, workers_killed, workers_rolled
from tests.chaos.world import SESSION
from tests.support.outages import away, failing, forbidden, saturated, storeless

PIPELINE = ("workers", "redis", "redis-link", "kafka", "kafka-link")
"""Parts that alerts pass through: a fault in them can lose or duplicate one."""
FORGETFUL = ("redis-truncated", "redis-flushed", "redis-failover")
"""Faults after which Redis has lost data."""
CLUSTER = "cluster"
"""The part of faults that need a Kubernetes API server."""
DISK = "disk"
"""The part of faults that need a file system of their own."""
FAULTS = {
    "all-workers-killed": Fault("workers", "kill -9 of every worker at once", (0, 3), workers_killed, sweeping=True),
    "workers-rolled": Fault(
        "workers", "SIGTERM to one worker after the other", (0, 0), workers_rolled, sweeping=True, takes=8
    ),
    "worker-killed": Fault("workers", "kill -9 of a worker", (0, 3), worker_killed),
    "worker-zombie": Fault(
        "workers", "SIGSTOP of a worker, SIGCONT after its session", (SESSION + 1, SESSION + 5), worker_frozen
    ),
    "worker-nap": Fault(
        "workers", "SIGSTOP of a worker, SIGCONT within its session", (SESSION / 2, SESSION - 0.5), worker_frozen
    ),
    "worker-added": Fault("workers", "a worker added, then removed", (2, 5), worker_added),
    "redis-killed": Fault("redis", "kill -9 of Redis, back from its append-only file", (0, 8), redis_killed),
    "redis-truncated": Fault(
        "redis", "kill -9 of Redis, and the end of its append-only file lost", (0, 3), redis_truncated
    ),
    "redis-flushed": Fault("redis", "`FLUSHALL`", (0, 0), redis_flushed),
    "redis-paused": Fault("redis", "`CLIENT PAUSE`", (0, 0), redis_paused, takes=1),
    "redis-asleep": Fault("redis", "`DEBUG SLEEP`", (0, 0), redis_asleep, takes=1),
    "redis-full": Fault("redis", "`maxmemory` shrunk below what is used", (3, 8), redis_full),
    "redis-scripts": Fault("redis", "`SCRIPT FLUSH`", (0, 0), redis_forgot_scripts),
    "redis-failover": Fault(
        "redis", "failover to a replica without the last writes", (0, 0), redis_failed_over, takes=1
    ),
    "kafka-killed": Fault(
        "kafka", "kill -9 of every broker and of the controller", (0, 5), kafka_killed, settles=leaders_settled
    ),
    "kafka-frozen": Fault(
        "kafka", "SIGSTOP of every broker and of the controller", (3, 12), kafka_frozen, settles=leaders_settled
    ),
    "broker-killed": Fault(
        "kafka",
        "kill -9 of a broker: its partitions and groups move to the other, and back",
        (4, 9),
        broker_killed,
        settles=leaders_settled,
    ),
    "broker-restarted": Fault(
        "kafka",
        "SIGTERM of a broker: its partitions and groups are handed over, and move back",
        (0, 4),
        broker_restarted,
        takes=2,
        settles=leaders_settled,
    ),
    "broker-frozen": Fault(
        "kafka",
        "SIGSTOP of a broker until the other has taken over, then SIGCONT",
        (6, 20),
        broker_frozen,
        settles=leaders_settled,
    ),
    "alerts-partition": Fault(
        "kafka", "one more partition for `alerts`", (0, 0), alerts_partition_added, settles=alerts_partition_read
    ),
    "keyed-partition": Fault("kafka", "one more partition for `alerts-by-fingerprint`", (0, 0), keyed_partition_added),
    "storms-partition": Fault("kafka", "one more partition for `storms`", (0, 0), storms_partition_added),
    "kafka-cut": Fault("kafka-link", "Kafka's connections cut", (1, 10), cut(kafka_ways)),
    "kafka-mute": Fault("kafka-link", "Kafka's connections drop everything", (2, 10), poisoned(kafka_ways, "timeout")),
    "kafka-reset": Fault(
        "kafka-link",
        "Kafka's connections reset after a moment",
        (2, 8),
        poisoned(kafka_ways, "reset_peer", timeout=300),
    ),
    "kafka-slow": Fault(
        "kafka-link",
        "Kafka's connections slow",
        (4, 10),
        poisoned(kafka_ways, "latency", latency=500, jitter=400),
    ),
    "kafka-narrow": Fault(
        "kafka-link",
        "Kafka's connections narrow",
        (4, 10),
        poisoned(kafka_ways, "bandwidth", rate=NARROW),
    ),
    "kafka-late": Fault("kafka-link", "Kafka's responses later than the grace", (5, 8), answers_late),
    "redis-cut": Fault("redis-link", "Redis' connections cut", (1, 10), cut(redis_ways)),
    "redis-mute": Fault("redis-link", "Redis' connections drop everything", (2, 10), poisoned(redis_ways, "timeout")),
    "redis-reset": Fault(
        "redis-link",
        "Redis' connections reset after a moment",
        (2, 8),
        poisoned(redis_ways, "reset_peer", timeout=300),
    ),
    "redis-slow": Fault(
        "redis-link",
        "Redis' connections slow",
        (4, 10),
        poisoned(redis_ways, "latency", latency=500, jitter=400),
    ),
    "clocks-skewed": Fault("producers", "producers' clocks wrong, within the grace and beyond", (4, 8), clocks_skewed),
    "disk-full": Fault(DISK, "disk of the directory sink full", (3, 10), disk_full),
    "api-killed": Fault(CLUSTER, "kill -9 of the API server", (0, 10), outage(away)),
    "api-storeless": Fault(CLUSTER, "kill -9 of the API server's store", (2, 10), outage(storeless)),
    "api-429": Fault(CLUSTER, "the API server answers 429", (3, 10), outage(saturated)),
    "api-500": Fault(CLUSTER, "the API server answers 500", (3, 10), outage(failing)),
    "api-cut": Fault(CLUSTER, "the API server's connections cut", (2, 10), felt(cut(api_ways))),
    "api-mute": Fault(
        CLUSTER,
        "the API server's connections drop everything, until requests time out",
        (0, 4),
        felt(poisoned(api_ways, "timeout")),
        takes=REQUEST_SECONDS,
    ),
    "api-slow": Fault(
        CLUSTER,
        "the API server's connections slow",
        (4, 10),
        poisoned(api_ways, "latency", latency=500, jitter=400),
    ),
    "rbac-revoked": Fault(CLUSTER, "the worker's role unbound, and bound again", (3, 10), outage(forbidden)),
    "namespace-deleted": Fault(CLUSTER, "the namespace deleted and created again", (3, 10), namespace_deleted),
    "crd-removed": Fault(CLUSTER, "the definition removed and restored", (3, 10), definition_removed, sweeping=True),
}
