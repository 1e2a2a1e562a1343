"""The metrics, declared in one place: name, kind, labels, what they mean."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry(auto_describe=True)

ALERTS_READ = Counter("stormfold_alerts_read", "Alerts understood by intake", registry=REGISTRY)
ALERTS_LATE = Counter("stormfold_alerts_late", "Alerts that came more than the grace behind", registry=REGISTRY)
ALERTS_DEAD = Counter("stormfold_dead_letters", "Records sent to a dead-letter topic", ["topic"], registry=REGISTRY)
ALERTS_FOLDED = Counter("stormfold_alerts_folded", "Alerts folded into Redis", registry=REGISTRY)
ALERTS_DUPLICATE = Counter("stormfold_alerts_duplicate", "Alerts seen again and dropped", registry=REGISTRY)
ALERTS_SKIPPED = Counter("stormfold_alerts_skipped", "Alerts before a rebuild's beginning", registry=REGISTRY)
ALERTS_CLAMPED = Counter("stormfold_batches_behind", "Batches with alerts before the watermark", registry=REGISTRY)
KEYED_UNKNOWN = Counter(
    "stormfold_keyed_unknown", "Records of the keyed topic that nobody here wrote", registry=REGISTRY
)
REWINDS = Counter(
    "stormfold_rewinds", "Times that a stage went back to its stored positions", ["stage"], registry=REGISTRY
)
EPOCH = Gauge("stormfold_epoch", "Number of the epoch that stands", registry=REGISTRY)
STORMS_CLOSED = Counter("stormfold_storms_closed", "Storms published, by class", ["storm_class"], registry=REGISTRY)
ALERTS_CLOSED = Counter("stormfold_alerts_closed", "Alerts in published storms", ["storm_class"], registry=REGISTRY)
STORMS_DROPPED = Counter(
    "stormfold_storms_dropped", "Storms of a rebuild that were published before", registry=REGISTRY
)
SETTLE_REFUSED = Counter(
    "stormfold_settle_refused", "Groups left alone by settle: lease lost or changed", registry=REGISTRY
)
STORMS_WRITTEN = Counter("stormfold_storms_written", "Storms handed to the sink", ["outcome"], registry=REGISTRY)
SINK_ERRORS = Counter("stormfold_sink_errors", "Failed writes to the sink", ["kind"], registry=REGISTRY)
STORMS_RETAINED = Counter("stormfold_resources_deleted", "Resources deleted by retention", registry=REGISTRY)
LAG = Gauge("stormfold_lag_records", "Records not yet read", ["stage", "partition"], registry=REGISTRY)
LOST = Gauge("stormfold_lost_records", "Records that retention took unread", ["stage", "partition"], registry=REGISTRY)
EVENT_AGE = Gauge("stormfold_event_age_seconds", "Now less the newest event time folded", registry=REGISTRY)
HORIZON_DELAY = Gauge("stormfold_horizon_delay_seconds", "Now less the horizon", registry=REGISTRY)
STALLED = Gauge("stormfold_stalled_partitions", "Cells left out of the horizon: no progress", registry=REGISTRY)
OPEN_GROUPS = Gauge("stormfold_open_groups", "Groups with something not yet closed", registry=REGISTRY)
BATCH_ALERTS = Histogram(
    "stormfold_batch_alerts", "Alerts in a poll", ["stage"], buckets=(1, 10, 100, 1000, 5000, 20000), registry=REGISTRY
)
FOLD_SECONDS = Histogram("stormfold_fold_seconds", "Time of a fold call", registry=REGISTRY)
PUBLISH_DELAY = Histogram(
    "stormfold_final_to_published_seconds", "Horizon less the moment a storm became final",
    buckets=(0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 120, 600), registry=REGISTRY,
)  # fmt: skip
WRITE_DELAY = Histogram(
    "stormfold_published_to_written_seconds", "From a storm's record to its resource",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 120, 600), registry=REGISTRY,
)  # fmt: skip
REDIS_USED = Gauge("stormfold_redis_used_bytes", "Memory that Redis uses", registry=REGISTRY)
REDIS_MAX = Gauge("stormfold_redis_max_bytes", "Memory that Redis may use; 0 without a limit", registry=REGISTRY)
REDIS_FRAGMENTATION = Gauge("stormfold_redis_fragmentation_ratio", "Resident over used memory", registry=REGISTRY)
REDIS_EVICTED = Gauge("stormfold_redis_evicted_keys", "Keys that Redis threw away; must be 0", registry=REGISTRY)
REDIS_REFUSED = Counter("stormfold_redis_refused", "Fold calls that a full Redis refused", registry=REGISTRY)
