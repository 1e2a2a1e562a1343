"""Who is behind, since when, in which partition, and until when."""

from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units

from tests.integration.monitoring.dashboards.parts import DELAY, Column, Part, Query, dashboard, figure, graph, rows

WAITING = "sum by ({0}) (stormfold_lag_records)"
LEAST = "sum by ({0}) (min_over_time(stormfold_lag_records[1m]))"
"""What waits, without the mark or two that are always just under way."""
DONE = "sum by ({0}) (clamp_min(deriv(stormfold_position[$__rate_interval]), 0))"
"""Records a second. The derivative, as a position goes back when a stage rewinds, which is no new beginning."""
AGE = "max by ({0}) (stormfold_event_time_lag_seconds)"
UNTIL = f"{LEAST} / clamp_min(-deriv(({WAITING})[5m:5s]), 1e-6)"
"""Seconds until nothing waits; a million and more while what waits does not get less."""
SINCE = f"""
    time() - max_over_time(timestamp({LEAST} == 0)[6h:15s])
    or 0 * {LEAST} + 6 * 3600
"""
"""Seconds since nothing waited; six hours stand for longer."""
STAGES = {
    "intake": "`alerts`, which producers write",
    "fold": "`alerts-by-fingerprint`",
    "emit": "`storms`",
}


def lag() -> models.Dashboard:
    """The page."""
    return dashboard(
        "lag",
        "lag",
        "Who is behind, since when, in which partition, and when it will be caught up.",
        {
            "Now": _now(),
            "Who is behind": _who(),
            "Over time": _over_time(),
            **{f"By partition: {stage}": _stage(stage, topic) for stage, topic in STAGES.items()},
            "As the brokers see it": _brokers(),
        },
    )


def _now() -> list[Part]:
    return [
        figure(
            "Workers ready", "Workers that can do their work. Without any, see what the brokers say, at the end.",
            "count(stormfold_ready == 1) or vector(0)", steps=[(1, "green")], below="red",
            alerts=["StormfoldDown", "StormfoldWorkerDown", "StormfoldNotReady"],
        ),
        figure(
            "Records waiting", "In all stages and partitions, as the workers tell.", "sum(stormfold_lag_records)",
            empty="no worker tells",
        ),
        figure(
            "Furthest behind", "Now, less the event time that the last of all partitions has come to.",
            "max(stormfold_event_time_lag_seconds)", units.Seconds, steps=DELAY, empty="no worker tells",
            alerts=["StormfoldNotCatchingUp"],
        ),
        figure(
            "Caught up in", "At the rate of the last five minutes, by the slowest stage.",
            f"max({UNTIL.format('stage')})", units.Seconds, steps=DELAY, empty="no worker tells",
        ),
        figure(
            "Horizon delay", "How much later than the clock storms close: the slowest partition of all decides.",
            "max(stormfold_horizon_delay_seconds)", units.Seconds, steps=[(30, "orange"), (120, "red")],
            empty="not yet known", alerts=["StormfoldHorizonDelayed"],
        ),
    ]  # fmt: skip


def _columns(*labels: str) -> list[Column]:
    by = ", ".join(labels)
    return [
        Column("Waiting", WAITING.format(by), units.Short),
        Column("Behind for", SINCE.format(by), units.Seconds, DELAY),
        Column("Caught up in", UNTIL.format(by), units.Seconds, DELAY),
        Column("Event age", AGE.format(by), units.Seconds, DELAY),
        Column("Done a second", DONE.format(by), units.Short),
    ]


def _who() -> list[Part]:
    return [
        rows(
            "Stages", "Behind for: since something has been waiting, six hours at most. Event age: how long ago that "
            "happened which is acted upon now. Partitions: those that some worker has.",
            ["stage"], *_columns("stage"),
            Column("Partitions", "count by (stage) (stormfold_lag_records)", units.Short),
            alerts=["StormfoldLagGrowing", "StormfoldStageMissing"],
        ),
        rows(
            "Partitions", "The one with most waiting on top.", ["stage", "partition"], *_columns("stage", "partition"),
            alerts=["StormfoldStageStalled"],
        ),
    ]  # fmt: skip


def _over_time() -> list[Part]:
    return [
        graph("Records waiting", "By stage.", units.Short, Query(WAITING.format("stage"), "{{stage}}")),
        graph(
            "Event age", "How long ago that happened which a stage acts upon: its last partition.", units.Seconds,
            Query(AGE.format("stage"), "{{stage}}"), steps=DELAY,
        ),
        graph("Done", "Records a second, by stage.", units.Short, Query(DONE.format("stage"), "{{stage}}")),
        graph(
            "Alerts in a poll", "On average: larger ones are folded cheaper.", units.Short,
            Query(
                "sum by (stage) (rate(stormfold_batch_alerts_sum[$__rate_interval]))"
                " / (sum by (stage) (rate(stormfold_batch_alerts_count[$__rate_interval])) > 0)",
                "{{stage}}",
            ),
        ),
        graph(
            "Horizon delay", "How much later than the clock storms close.", units.Seconds,
            Query("max(stormfold_horizon_delay_seconds)", "delay"), steps=[(120, "red")],
        ),
        graph(
            "Comings and goings", "Times that a stage was given partitions, or went back to its stored positions, in "
            "a minute.", units.Short,
            Query("sum by (stage) (rate(stormfold_assignments_total[$__rate_interval])) * 60", "{{stage}} assigned"),
            Query("sum by (stage) (rate(stormfold_rewinds_total[$__rate_interval])) * 60", "{{stage}} went back"),
        ),
        graph(
            "Problems", "Workers that can't do their work, by the part that can't.", units.Short,
            Query(
                'sum by (component) (stormfold_component_unhealthy)'
                ' or on () label_replace(vector(0), "component", "none", "", "")',
                "{{component}}",
            ),
        ),
        graph(
            "Versions", "Workers by the version that they run.", units.Short,
            Query("count by (version, python) (stormfold_build_info)", "{{version}} on Python {{python}}"),
        ),
        graph(
            "Given up", "Records that retention took before they were read; cells (a partition of alerts, as one of "
            "the keyed topic knows it) that storms no longer wait for.", units.Short,
            Query(
                'sum by (stage) (stormfold_lost_records) or on () label_replace(vector(0), "stage", "any", "", "")',
                "lost to {{stage}}",
            ),
            Query("max(stormfold_idle_partition_pairs)", "cells left out"),
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
            f"Done by {stage}", "Records a second.", units.Short,
            Query(
                f"sum by (partition) (clamp_min(deriv(stormfold_position{only}[$__rate_interval]), 0))",
                "{{partition}}",
            ),
        ),
    ]  # fmt: skip
    if stage != "emit":
        parts.append(
            graph(
                f"Event age in {stage}", "The partition with the oldest holds all others, as storms close by it.",
                units.Seconds, Query(f"max by (partition) (stormfold_event_time_lag_seconds{only})", "{{partition}}"),
                steps=DELAY,
            )
        )  # fmt: skip
    return parts


def _brokers() -> list[Part]:
    # -1 stands for a partition in which nothing was ever committed.
    ours = 'kafka_consumergroup_lag{consumergroup=~"stormfold-.*"}'
    return [
        graph(
            "Not yet committed", "Told by the Kafka exporter, so also of a stage whose workers are all dead. Commits "
            "come after what they speak of, so this is a little more than what waits.", units.Short,
            Query(f"sum by (consumergroup, topic) (clamp_min({ours}, 0))", "{{consumergroup}}: {{topic}}"),
            alerts=["StormfoldLagUnattended"],
        ),
        graph(
            "Not yet committed, by partition", "The ten with most.", units.Short,
            Query(
                f"topk(10, sum by (consumergroup, partition) (clamp_min({ours}, 0)))", "{{consumergroup}} {{partition}}"
            ),
        ),
    ]  # fmt: skip
