"""The metrics, declared in one place: name, kind, labels, what they mean.

Nothing is told that is not known: a gauge of what another server says is gone when that has not said it for a while,
and ages are reckoned when they are read. A counter's labels are there before it first counts, where they are known: an
increase from nothing is none to Prometheus.
"""

import platform
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from stormfold import __version__

FRESH_SECONDS = 10.0
"""How long a value is told that nobody has confirmed: several rounds of whoever sets it."""

_READERS = ("intake", "fold", "emit")
"""Stages that read a topic."""
_CLASSES = ("Storm", "Isolated", "Silenced")

disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry(auto_describe=True)


class Fresh(Collector):
    """A gauge without labels, told for `FRESH_SECONDS` from when it was set."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name, self._documentation = name, documentation
        self._value, self._set_at = 0.0, float("-inf")
        REGISTRY.register(self)

    def set(self, value: float) -> None:
        """It is so now."""
        self._value, self._set_at = value, time.monotonic()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One value, or none."""
        known = time.monotonic() - self._set_at < FRESH_SECONDS
        yield GaugeMetricFamily(self._name, self._documentation, value=self._value if known else None)


class Age(Collector):
    """A gauge without labels: seconds since a moment, told from when the first one is known."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name, self._documentation = name, documentation
        self._since: int | None = None
        REGISTRY.register(self)

    def since(self, moment: int) -> None:
        """It counts from this moment (epoch ms)."""
        self._since = moment

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One value, or none."""
        age = None if self._since is None else time.time() - self._since / 1000
        yield GaugeMetricFamily(self._name, self._documentation, value=age)


def _counter(name: str, documentation: str, label: str, *values: str) -> Counter:
    """A counter with one label, whose values are known."""
    counter = Counter(name, documentation, [label], registry=REGISTRY)
    for value in values:
        counter.labels(value)
    return counter


BUILD = Gauge("stormfold_build_info", "1: the version that runs", ["version", "python"], registry=REGISTRY)
BUILD.labels(__version__, platform.python_version()).set(1)
READY = Gauge("stormfold_ready", "1 while the worker can do its work", registry=REGISTRY)
COMPONENT_UNHEALTHY = Gauge(
    "stormfold_component_unhealthy", "1 for each part that can't do its work", ["component"], registry=REGISTRY
)

ALERTS_READ = Counter("stormfold_alerts_read", "Alerts understood by intake", registry=REGISTRY)
ALERTS_LATE = Counter("stormfold_alerts_late", "Alerts that came more than the grace behind", registry=REGISTRY)
DEAD_LETTERS = Counter("stormfold_dead_letters", "Records sent to a dead-letter topic", ["topic"], registry=REGISTRY)
ALERTS_FOLDED = Counter("stormfold_alerts_folded", "Alerts folded into Redis", registry=REGISTRY)
ALERTS_DUPLICATE = Counter("stormfold_alerts_duplicate", "Alerts seen again and dropped", registry=REGISTRY)
ALERTS_SKIPPED = Counter("stormfold_alerts_skipped", "Alerts before a rebuild's beginning", registry=REGISTRY)
BATCHES_CLAMPED = Counter("stormfold_batches_clamped", "Batches with alerts before the watermark", registry=REGISTRY)
KEYED_RECORDS_INVALID = Counter(
    "stormfold_keyed_records_invalid", "Records of the keyed topic that nobody here wrote", registry=REGISTRY
)
ASSIGNMENTS = _counter(
    "stormfold_assignments", "Times that a stage was given partitions, at its start as well", "stage", *_READERS
)
REWINDS = _counter("stormfold_rewinds", "Times that a stage went back to its stored positions", "stage", *_READERS)
EPOCH = Fresh("stormfold_state_version", "Number of the epoch that stands")
STATE_VERSIONS_OPENED = _counter(
    "stormfold_state_versions_opened", "State versions opened: the first, after a loss in Redis, for changed windows",
    "reason", "first", "rebuild", "windows",
)  # fmt: skip
STORMS_CLOSED = _counter("stormfold_storms_closed", "Storms published, by class", "storm_class", *_CLASSES)
ALERTS_CLOSED = _counter("stormfold_alerts_closed", "Alerts in published storms", "storm_class", *_CLASSES)
STORMS_DEDUPLICATED = Counter(
    "stormfold_storms_deduplicated", "Storms of a rebuild that were published before", registry=REGISTRY
)
COMPLETION_CONFLICTS = Counter(
    "stormfold_completion_conflicts", "Groups left alone by settle: lease lost or changed", registry=REGISTRY
)
STORMS_WRITTEN = _counter(
    "stormfold_storms_written", "Storms handed to the sink", "outcome", "created", "exists", "parked"
)
SINK_ERRORS = _counter(
    "stormfold_sink_errors", "Failed writes to the sink, all retried; action_required: a person must act",
    "outcome", "retry", "action_required",
)  # fmt: skip
RESOURCES_DELETED = Counter("stormfold_resources_deleted", "Resources deleted by retention", registry=REGISTRY)
LAG = Gauge("stormfold_lag_records", "Records not yet acted upon", ["stage", "partition"], registry=REGISTRY)
POSITION = Gauge("stormfold_position", "Offset that a stage goes on from", ["stage", "partition"], registry=REGISTRY)
EVENT_TIME_LAG = Gauge(
    "stormfold_event_time_lag_seconds", "Now less the event time that a stage has come to", ["stage", "partition"],
    registry=REGISTRY,
)  # fmt: skip
LOST = Gauge("stormfold_lost_records", "Records that retention took unread", ["stage", "partition"], registry=REGISTRY)
HORIZON_DELAY = Age("stormfold_horizon_delay_seconds", "Now less the horizon")
IDLE_PARTITION_PAIRS = Fresh("stormfold_idle_partition_pairs", "Cells left out of the horizon: no progress")
OPEN_GROUPS = Fresh("stormfold_open_groups", "Groups with something not yet closed")
MAX_GROUPS = Fresh("stormfold_max_groups", "Open groups beyond which fold tells new ones no longer apart")
ALERTS_OVERFLOWED = Counter(
    "stormfold_alerts_overflowed", "Alerts folded into an overflow group: too many groups were open", registry=REGISTRY
)
BATCH_ALERTS = Histogram(
    "stormfold_batch_alerts", "Alerts in a poll", ["stage"], buckets=(1, 10, 100, 1000, 5000, 20000), registry=REGISTRY
)
for _stage in ("intake", "fold"):
    BATCH_ALERTS.labels(_stage)
FOLD_SECONDS = Histogram("stormfold_fold_seconds", "Time of a fold call", registry=REGISTRY)
CLOSE_LATENCY = Histogram(
    "stormfold_close_latency_seconds", "Horizon less the moment a storm became final",
    buckets=(0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 120, 600), registry=REGISTRY,
)  # fmt: skip
SINK_LATENCY = Histogram(
    "stormfold_sink_latency_seconds", "From a storm's record to its resource",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 120, 600), registry=REGISTRY,
)  # fmt: skip
STORM_LATENCY = Histogram(
    "stormfold_storm_latency_seconds", "From when a storm is over, and grace, to its resource",
    buckets=(0.5, 1, 2, 3, 5, 10, 30, 60, 120, 600, 3600), registry=REGISTRY,
)  # fmt: skip
REDIS_USED = Fresh("stormfold_redis_used_bytes", "Memory that Redis measures against its maxmemory")
REDIS_MAX = Fresh("stormfold_redis_max_bytes", "Memory that Redis may use; 0 without a limit")
REDIS_FRAGMENTATION = Fresh("stormfold_redis_fragmentation_ratio", "Resident over used memory")
REDIS_EVICTED = Fresh("stormfold_redis_evicted_keys", "Keys that Redis threw away; must be 0")
REDIS_OOM_REJECTIONS = Counter(
    "stormfold_redis_oom_rejections", "Fold calls that a full Redis refused", registry=REGISTRY
)
