"""The dashboard about lag: which stage is behind, for how long, in which partition, and when it will catch up."""

from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units

from tests.integration.monitoring.dashboards.parts import DELAY, Column, Part, Query, dashboard, figure, graph, rows

WAITING = "sum by ({0}) (stormfold_lag_records)"
LEAST = "sum by ({0}) (min_over_time(stormfold_lag_records[1m]))"
"""Waiting records without the one or two marks that are always in flight."""
DONE = "sum by ({0}) (clamp_min(deriv(stormfold_position[$__rate_interval]), 0))"
"""Records per second. The derivative, because a rewind moves a position back, which `rate` takes for a restart."""
AGE = "max by ({0}) (stormfold_event_time_lag_seconds)"
UNTIL = f"{LEAST} / clamp_min(-deriv(({WAITING})[5m:5s]), 1e-6)"
"""Seconds until nothing waits; a million or more while the lag does not shrink."""
SINCE = f"""
    time() - max_over_time(timestamp({LEAST} == 0)[6h:15s])
    or 0 * {LEAST} + 6 * 3600
"""
"""Seconds since nothing waited, at most six hours."""
STAGES = {
    "intake": "`alerts`, which producers write",
    "fold": "`alerts-by-fingerprint`",
    "emit": "`storms`",
    "emit-incidents": "`incidents`",
}


def lag() -> models.Dashboard:
    """Builds the dashboard."""
    return dashboard(
        "lag",
        "lag",
        "Which stage is behind, for how long, in which partition, and when it will catch up.",
        {
            "Now": _now(),
            "Stages and partitions": _who(),
            "Over time": _over_time(),
            **{f"By partition: {stage}": _stage(stage, topic) for stage, topic in STAGES.items()},
            "As the brokers see it": _brokers(),
        },
    )


def _now() -> list[Part]:
    return [
        figure(
            "Workers ready", "Workers that can do their work. If there are none, see the brokers' view at the end.",
            "count(stormfold_ready == 1) or vector(0)", steps=[(1, "green")], below="red",
            alerts=["StormfoldDown", "StormfoldWorkerDown", "StormfoldNotReady", "StormfoldConfigRefused"],
        ),
        figure(
            "Records waiting", "In all stages and partitions, reported by the workers.", "sum(stormfold_lag_records)",
            empty="no worker reports",
        ),
        figure(
            "Furthest behind", "Wall clock minus the event time that the slowest partition has reached.",
            "max(stormfold_event_time_lag_seconds)", units.Seconds, steps=DELAY, empty="no worker reports",
            alerts=["StormfoldNotCatchingUp"],
        ),
        figure(
            "Caught up in", "At the rate of the last five minutes, by the slowest stage.",
            f"max({UNTIL.format('stage')})", units.Seconds, steps=DELAY, empty="no worker reports",
        ),
        figure(
            "Horizon delay", "Wall clock minus the horizon: the slowest partition delays all storms.",
            "max(stormfold_horizon_delay_seconds)", units.Seconds, steps=[(30, "orange"), (120, "red")],
            empty="not known yet", alerts=["StormfoldHorizonDelayed"],
        ),
        figure(
            "Incidents complete up to", "Age of the time before which every storm is closed and published: later "
            "incidents wait. It includes the longest open session, up to 1.5 slices.",
            "max(stormfold_closed_before_age_seconds)", units.Seconds, steps=[(1200, "orange"), (1800, "red")],
            empty="no worker correlates", alerts=["StormfoldIncidentsDelayed"],
        ),
    ]  # fmt: skip


def _columns(*labels: str) -> list[Column]:
    by = ", ".join(labels)
    return [
        Column("Waiting", WAITING.format(by), units.Short),
        Column("Behind for", SINCE.format(by), units.Seconds, DELAY),
        Column("Caught up in", UNTIL.format(by), units.Seconds, DELAY),
        Column("Event time lag", AGE.format(by), units.Seconds, DELAY),
        Column("Records/s", DONE.format(by), units.Short),
    ]


def _who() -> list[Part]:
    return [
        rows(
            "Stages", "Behind for: the time since nothing waited, at most six hours. Event time lag: wall clock minus "
            "the event time reached. Partitions: those that are assigned to a worker.",
            ["stage"], *_columns("stage"),
            Column("Partitions", "count by (stage) (stormfold_lag_records)", units.Short),
            alerts=["StormfoldLagGrowing", "StormfoldStageMissing"],
        ),
        rows(
            "Partitions", "The largest lag first.", ["stage", "partition"], *_columns("stage", "partition"),
            alerts=["StormfoldStageStalled"],
        ),
    ]  # fmt: skip


def _over_time() -> list[Part]:
    return [
        graph(
            "Records waiting", "By stage; and those that no stage can read before a transaction ends.", units.Short,
            Query(WAITING.format("stage"), "{{stage}}"),
            Query("sum by (stage) (stormfold_lag_unstable_records)", "{{stage}}, open transaction"),
        ),
        graph(
            "Event time lag", "Wall clock minus the event time that the slowest partition has reached.", units.Seconds,
            Query(AGE.format("stage"), "{{stage}}"), steps=DELAY,
        ),
        graph("Throughput", "Records per second, by stage.", units.Short, Query(DONE.format("stage"), "{{stage}}")),
        graph(
            "Alerts in a batch", "On average; larger batches cost less per alert.", units.Short,
            Query(
                "sum by (stage) (rate(stormfold_batch_alerts_sum[$__rate_interval]))"
                " / (sum by (stage) (rate(stormfold_batch_alerts_count[$__rate_interval])) > 0)",
                "{{stage}}",
            ),
        ),
        graph(
            "Horizon delay", "Wall clock minus the horizon: storms close this much later.", units.Seconds,
            Query("max(stormfold_horizon_delay_seconds)", "delay"), steps=[(120, "red")],
        ),
        graph(
            "Assignments and rewinds", "Per minute: assignments of partitions, and returns to stored positions.",
            units.Short,
            Query("sum by (stage) (rate(stormfold_assignments_total[$__rate_interval])) * 60", "{{stage}} assigned"),
            Query("sum by (stage) (rate(stormfold_rewinds_total[$__rate_interval])) * 60", "{{stage}} rewound"),
        ),
        graph(
            "Unhealthy components", "Workers that cannot do their work, by component.", units.Short,
            Query(
                'sum by (component) (stormfold_component_unhealthy)'
                ' or on () label_replace(vector(0), "component", "none", "", "")',
                "{{component}}",
            ),
        ),
        graph(
            "Versions", "Workers by their version.", units.Short,
            Query("count by (version, python) (stormfold_build_info)", "{{version}} on Python {{python}}"),
        ),
        graph(
            "Lost records and idle partitions", "Records that Kafka deleted before they were read, and partition pairs "
            "(a partition of `alerts` in one of the keyed topic) that the horizon ignores.", units.Short,
            Query(
                "sum by (stage) (stormfold_lost_records_total)"
                ' or on () label_replace(vector(0), "stage", "any", "", "")',
                "lost by {{stage}}",
            ),
            Query("max(stormfold_idle_partition_pairs)", "idle partition pairs"),
            alerts=["StormfoldLostRecords", "StormfoldPartitionIdle"],
        ),
    ]  # fmt: skip


def _stage(stage: str, topic: str) -> list[Part]:
    only = f'{{stage="{stage}"}}'
    parts = [
        graph(
            f"Waiting for {stage}", f"Records of {topic}.", units.Short,
            Query(f"sum by (partition) (stormfold_lag_records{only})", "{{partition}}"),
        ),
        graph(
            f"Throughput of {stage}", "Records per second.", units.Short,
            Query(
                f"sum by (partition) (clamp_min(deriv(stormfold_position{only}[$__rate_interval]), 0))",
                "{{partition}}",
            ),
        ),
    ]  # fmt: skip
    if not stage.startswith("emit"):
        parts.append(
            graph(
                f"Event time lag of {stage}", "Storms close by the slowest partition.",
                units.Seconds, Query(f"max by (partition) (stormfold_event_time_lag_seconds{only})", "{{partition}}"),
                steps=DELAY,
            )
        )  # fmt: skip
    return parts


def _brokers() -> list[Part]:
    # The exporter reports -1 for a partition without any commit.
    ours = 'kafka_consumergroup_lag{consumergroup=~"stormfold-.*"}'
    return [
        graph(
            "Not yet committed", "From the Kafka exporter, so also for a stage without any worker. Commits follow "
            "the work, so this is slightly more than the lag.", units.Short,
            Query(f"sum by (consumergroup, topic) (clamp_min({ours}, 0))", "{{consumergroup}}: {{topic}}"),
            alerts=["StormfoldLagUnattended"],
        ),
        graph(
            "Not yet committed, by partition", "The ten largest.", units.Short,
            Query(
                f"topk(10, sum by (consumergroup, partition) (clamp_min({ours}, 0)))", "{{consumergroup}} {{partition}}"
            ),
        ),
    ]  # fmt: skip
