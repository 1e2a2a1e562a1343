"""All metrics of a worker, declared once: name, type, labels and help text. Each constant is named like its metric.

Unknown or stale values are not exported: a gauge with a value from another server disappears when that value is old,
and ages and values by partition are read at each scrape. Counters with known label values export them from the start
at 0, because Prometheus sees no increase in a series that begins with its first event.
"""

import platform
import time
from collections.abc import Collection, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from stormfold import __version__

FRESH_SECONDS = 10.0
"""Seconds for which a value is exported after it was last set: several intervals of the services that set it."""

PREFIX = "stormfold_"
_READERS = ("intake", "fold", "emit", "emit-incidents")
"""Readers of topics: stages, and of emit one for each kind of resource."""
_KINDS = ("AlertStorm", "AlertIncident")
_REASONS = ("first", "rebuild", "windows")
_ERRORS = ("retry", "action_required")
_CLASSES = ("Storm", "Isolated", "Silenced")

disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry(auto_describe=True)


class ExpiringGauge(Collector):
    """A gauge without labels that is exported for `FRESH_SECONDS` after it was set."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name, self._documentation = PREFIX + name, documentation
        self._value, self._set_at = 0.0, float("-inf")
        REGISTRY.register(self)

    def set(self, value: float) -> None:
        """Sets the current value."""
        self._value, self._set_at = value, time.monotonic()

    def clear(self) -> None:
        """Forgets the value: another worker exports it from now on."""
        self._set_at = float("-inf")

    def value(self) -> float | None:
        """The value to export; None if it is unknown."""
        return self._value if time.monotonic() - self._set_at < FRESH_SECONDS else None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One value, or none."""
        yield GaugeMetricFamily(self._name, self._documentation, value=self.value())


class AgeGauge(ExpiringGauge):
    """A gauge without labels: the seconds since a moment in Unix time (ms); exported once it was set."""

    def value(self) -> float | None:
        """The age now; None if it was never set."""
        return None if self._set_at == float("-inf") else time.time() - self._value / 1000


class ScrapedGauge(Collector):
    """A gauge whose values are all set at each scrape: none is left of a partition that another worker has now."""

    def __init__(self, name: str, documentation: str, *labels: str) -> None:
        self._name, self._documentation = PREFIX + name, documentation
        self.labels = labels
        self.values: Mapping[tuple[str, ...], float] = {}
        """Values of the labels → value to export."""
        REGISTRY.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The values of the last scrape that set them."""
        family = GaugeMetricFamily(self._name, self._documentation, labels=self.labels)
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        yield family


def _counter(name: str, documentation: str, *labels: str, values: Collection[str | tuple[str, ...]] = ()) -> Counter:
    counter = Counter(PREFIX + name, documentation, labels, registry=REGISTRY)
    for value in values:
        counter.labels(*((value,) if isinstance(value, str) else value))
    return counter


def _gauge(name: str, documentation: str, *labels: str) -> Gauge:
    return Gauge(PREFIX + name, documentation, labels, registry=REGISTRY)


def _histogram(
    name: str, documentation: str, buckets: Collection[float], labels: Mapping[str, Collection[str]] | None = None
) -> Histogram:
    histogram = Histogram(PREFIX + name, documentation, list(labels or {}), buckets=tuple(buckets), registry=REGISTRY)
    for values in (labels or {}).values():
        for value in values:
            histogram.labels(value)
    return histogram


def _registry(*metrics: Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=True)
    for metric in metrics:
        registry.register(metric)
    return registry


BUILD_INFO = _gauge("build_info", "1, with the version of the worker as labels", "version", "python")
BUILD_INFO.labels(__version__, platform.python_version()).set(1)
READY = ScrapedGauge("ready", "1 if the worker can do its work, else 0")
CONFIG_LAST_RELOAD_SUCCESSFUL = _gauge(
    "config_last_reload_successful",
    "1 if the worker applies its configuration file as it is now, 0 if it refused the last change",
)
CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP_SECONDS = _gauge(
    "config_last_reload_success_timestamp_seconds", "When the configuration was last loaded (Unix time)"
)
COMPONENT_UNHEALTHY = ScrapedGauge("component_unhealthy", "1 for each component that cannot do its work", "component")

ALERTS_READ = _counter("alerts_read", "Alerts that intake read and parsed")
RECORDS_SKIPPED = _counter("records_skipped", "Records of alerts that hold no alert, such as deletions of Events.")
ALERTS_LEFT_OUT = _counter(
    "alerts_left_out", "Alerts that senders left out of their webhooks (`truncatedAlerts`): nothing counts them."
)
ALERTS_OLD = _counter("alerts_old", "Alerts that began too long before their event time to make a storm.")
ALERTS_START_UNKNOWN = _counter(
    "alerts_start_unknown", "Alerts without a usable beginning, or with one in the future: they count as new."
)
ALERTS_SEVERITY_UNKNOWN = _counter(
    "alerts_severity_unknown", "Alerts with a severity that neither the order nor an alias has: they rank as warning."
)
ALERTS_LATE = _counter("alerts_late", "Alerts whose event time was more than the grace behind")
DEAD_LETTERS = _counter("dead_letters", "Records sent to a dead-letter topic", "topic")
ALERTS_FOLDED = _counter("alerts_folded", "Alerts folded into Redis")
ALERTS_DUPLICATE = _counter("alerts_duplicate", "Alerts that fold had already counted and dropped")
ALERTS_SKIPPED = _counter("alerts_skipped", "Alerts that a rebuild read again from before its start and did not count")
BATCHES_CLAMPED = _counter("batches_clamped", "Batches with alerts before the watermark, which count at the watermark")
KEYED_RECORDS_INVALID = _counter("keyed_records_invalid", "Records of the keyed topic that are not stormfold's")
ASSIGNMENTS = _counter(
    "assignments", "Assignments of partitions to a stage, the first one included", "stage", values=_READERS
)
REWINDS = _counter("rewinds", "Returns of a stage to its stored positions", "stage", values=_READERS)
STATE_VERSION = ExpiringGauge("state_version", "Number of the current state version in Redis")
STATE_VERSIONS_OPENED = _counter(
    "state_versions_opened",
    "State versions opened: first, after data loss, for changed windows",
    "reason",
    values=_REASONS,
)
STORMS_CLOSED = _counter("storms_closed", "Aggregates published, by class", "storm_class", values=_CLASSES)
ALERTS_CLOSED = _counter("alerts_closed", "Alerts in published aggregates, by class", "storm_class", values=_CLASSES)
GROUPS_OLD = _counter(
    "groups_old", "Isolated aggregates with enough firing alerts for a storm, of which too few qualify"
)
STORMS_DEDUPLICATED = _counter("storms_deduplicated", "Aggregates of a rebuild that had been published before")
COMPLETION_CONFLICTS = _counter("completion_conflicts", "Published groups not deleted: lease lost or group changed")
CLOSED_BEFORE_AGE_SECONDS = AgeGauge(
    "closed_before_age_seconds",
    "Wall clock minus the time before which every storm is closed and published, as correlate uses it",
)
INCIDENTS_PUBLISHED = _counter("incidents_published", "Incidents published; after a crash one can count twice")
PENDING_AGGREGATES = ExpiringGauge(
    "pending_aggregates", "Storms and isolated aggregates that wait for their incident, in the worker that correlates"
)
INCIDENT_STORMS_LATE = _counter(
    "incident_storms_late", "Storms in no incident: that of their time had been published before"
)
RESOURCES_WRITTEN = _counter(
    "resources_written",
    "Resources handled by the sink",
    "kind",
    "outcome",
    values=[(kind, outcome) for kind in _KINDS for outcome in ("created", "exists", "dead_letter")],
)
SINK_ERRORS = _counter(
    "sink_errors",
    "Failed writes to the sink and checks of it, all retried; action_required: a person must act",
    "kind",
    "outcome",
    values=[(kind, outcome) for kind in _KINDS for outcome in _ERRORS],
)
INCIDENTS_FIRING = _gauge("incidents_firing", "Announced incidents that are open, in the worker that announces")
ANNOUNCE_POSTS = _counter("announce_posts", "Posts of announced incidents to all instances of Alertmanager")
ANNOUNCE_ERRORS = _counter("announce_errors", "Instances of Alertmanager that did not take a post")
RESOURCES_WAITING = _gauge(
    "resources_waiting",
    "Resources that wait because their namespace cannot be written now, of those in memory",
    "kind",
    "target_namespace",
)
RESOURCES_DELETED = _counter("resources_deleted", "Resources deleted by retention", "kind", values=_KINDS)
LAG_RECORDS = ScrapedGauge(
    "lag_records", "Records that a stage can read and has not processed yet", "stage", "partition"
)
LAG_UNSTABLE_RECORDS = ScrapedGauge(
    "lag_unstable_records",
    "Records after the last stable offset: a stage cannot read them until an open transaction ends",
    "stage",
    "partition",
)
POSITION = ScrapedGauge("position", "Next offset that a stage processes", "stage", "partition")
EVENT_TIME_LAG_SECONDS = ScrapedGauge(
    "event_time_lag_seconds", "Wall clock minus the event time that a stage has reached", "stage", "partition"
)
LOST_RECORDS = _counter("lost_records", "Records that Kafka deleted before a stage read them", "stage", "partition")
HORIZON_DELAY_SECONDS = AgeGauge("horizon_delay_seconds", "Wall clock minus the horizon")
IDLE_PARTITION_PAIRS = ExpiringGauge("idle_partition_pairs", "Partition pairs without progress, ignored by the horizon")
OPEN_GROUPS = ExpiringGauge("open_groups", "Groups with alerts in no published aggregate yet")
MAX_GROUPS = ExpiringGauge("max_groups", "Open groups above which new groups of a route share an overflow group")
ALERTS_OVERFLOWED = _counter("alerts_overflowed", "Alerts folded into an overflow group")
BATCH_ALERTS = _histogram(
    "batch_alerts", "Alerts in a batch", (1, 10, 100, 1000, 5000, 20000), {"stage": ("intake", "fold")}
)
FOLD_SECONDS = _histogram("fold_seconds", "Duration of a fold call to Redis", Histogram.DEFAULT_BUCKETS)
CLOSE_LATENCY_SECONDS = _histogram(
    "close_latency_seconds",
    "Horizon minus the moment at which an aggregate became final",
    (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 120, 600),
)
SINK_LATENCY_SECONDS = _histogram(
    "sink_latency_seconds",
    "From the record of a storm or incident to its resource",
    (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 120, 600),
    {"kind": _KINDS},
)
STORM_LATENCY_SECONDS = _histogram(
    "storm_latency_seconds",
    "From the end of a storm plus grace to its resource",
    (0.5, 1, 2, 3, 5, 10, 30, 60, 120, 600, 3600),
)
REDIS_USED_BYTES = ExpiringGauge("redis_used_bytes", "Memory that Redis counts against maxmemory")
REDIS_MAX_BYTES = ExpiringGauge("redis_max_bytes", "maxmemory of Redis; 0 without a limit")
REDIS_FRAGMENTATION_RATIO = ExpiringGauge("redis_fragmentation_ratio", "Resident memory over used memory of Redis")
REDIS_EVICTED_KEYS = ExpiringGauge("redis_evicted_keys", "Keys that Redis evicted; must be 0")
REDIS_OOM_REJECTIONS = _counter("redis_oom_rejections", "Fold calls that Redis rejected because its memory is full")
RECEIVE_REQUESTS = _counter(
    "receive_requests", "HTTP requests with alerts, by status of the answer", "code", values=["200"]
)
RECEIVE_RECORDS = _counter("receive_records", "Records that `stormfold receive` wrote to Kafka")
RECEIVE_ALERTS_TOO_LARGE = _counter(
    "receive_alerts_too_large", "Alerts that `stormfold receive` did not write: larger than a record can be"
)
RECEIVE_SECONDS = _histogram(
    "receive_seconds",
    "Time from a request with alerts to its answer",
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
RECEIVE_REGISTRY = _registry(RECEIVE_REQUESTS, RECEIVE_RECORDS, RECEIVE_ALERTS_TOO_LARGE, RECEIVE_SECONDS)
"""The metrics of `stormfold receive`: with those of workers, an alert for a missing worker would see one."""
