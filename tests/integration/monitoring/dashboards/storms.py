"""The dashboard about storms: how many form, close and are written, how soon, and what goes wrong."""

from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units

from tests.integration.monitoring.dashboards.parts import BAD, DELAY, Part, Query, dashboard, figure, graph, quantiles

CLOSED = "sum by (storm_class) (rate(stormfold_{}_closed_total[$__rate_interval])) * 60"
SOME: tuple[tuple[float, str], ...] = ((1, "orange"),)


def storms() -> models.Dashboard:
    """Builds the dashboard."""
    return dashboard(
        "storms",
        "storms",
        "Storms that form, close and are written; how many alerts each of them folds; how soon; what goes wrong.",
        {
            "Selected time range": _now(),
            "From alerts to storms": _flow(),
            "Latency": _delays(),
            "Incidents": _incidents(),
            "Problems": _wrong(),
            "Alerts over HTTP (stormfold receive)": _receive(),
        },
    )


def _of_range(metric: str) -> str:
    """The increase over the whole time range."""
    return f"sum(increase({metric}[$__range]))"


def _now() -> list[Part]:
    closed = _of_range('stormfold_storms_closed_total{storm_class="Storm"}')
    return [
        figure("Forming now", "Open groups: their alerts are in no published storm yet.",
            "max(stormfold_open_groups)", empty="no worker"),
        figure("Storms closed", "Of class Storm.", closed, whole_range=True),
        figure(
            "Alerts per storm", "All alerts, isolated and silenced ones included, divided by the storms of class "
            "Storm.",
            f"{_of_range('stormfold_alerts_closed_total')} / ({closed} > 0)", whole_range=True, empty="no storm yet",
        ),
        figure(
            "Storms written", "AlertStorms created by the sink.",
            _of_range('stormfold_resources_written_total{kind="AlertStorm", outcome="created"}'), whole_range=True,
        ),
        figure(
            "Incidents written", "AlertIncidents created by the sink.",
            _of_range('stormfold_resources_written_total{kind="AlertIncident", outcome="created"}'), whole_range=True,
        ),
        figure(
            "Waiting to be written", "Closed storms and final incidents without a resource.",
            'sum(stormfold_lag_records{stage=~"emit|emit-incidents"})', steps=SOME, empty="no emitter",
            alerts=["StormfoldStormsWaiting"],
        ),
        figure(
            "Alerts read", "Read and parsed by intake.", _of_range("stormfold_alerts_read_total"), whole_range=True,
        ),
        figure(
            "Late alerts", "More than the grace behind. Counted, but their storm depends on when they arrived.",
            _of_range("stormfold_alerts_late_total"), whole_range=True, steps=SOME,
        ),
        figure(
            "Duplicates dropped", "Read again after a crash or a rebalance, and not counted again.",
            _of_range("stormfold_alerts_duplicate_total"), whole_range=True,
        ),
        figure(
            "Dead letters", "Records that could not be parsed, and storms that the sink rejected permanently.",
            _of_range("stormfold_dead_letters_total"), whole_range=True, steps=SOME, alerts=["StormfoldDeadLetters"],
        ),
        figure(
            "Failed writes", "All are retried.", _of_range("stormfold_sink_errors_total"), whole_range=True,
            steps=SOME, alerts=["StormfoldSinkErrors"],
        ),
        figure(
            "Rejected resources", "Storms and incidents that the sink rejected permanently: they are dead letters.",
            _of_range('stormfold_resources_written_total{outcome="dead_letter"}'), whole_range=True, steps=BAD,
        ),
    ]  # fmt: skip


def _flow() -> list[Part]:
    return [
        graph(
            "Alerts", "Per second: read by intake, folded, in closed storms.", units.Short,
            Query("sum(rate(stormfold_alerts_read_total[$__rate_interval]))", "read"),
            Query("sum(rate(stormfold_alerts_folded_total[$__rate_interval]))", "folded"),
            Query("sum(rate(stormfold_alerts_closed_total[$__rate_interval]))", "closed"),
        ),
        graph(
            "Forming", "Open groups.", units.Short,
            Query("max(stormfold_open_groups)", "open"),
        ),
        graph(
            "Storms closed", "Per minute, by class.", units.Short, Query(CLOSED.format("storms"), "{{storm_class}}"),
            stacked=True,
        ),
        graph(
            "Alerts closed", "Per minute, by the class of their storm.", units.Short,
            Query(CLOSED.format("alerts"), "{{storm_class}}"), stacked=True,
        ),
        graph(
            "Alerts per storm", "On average.", units.Short,
            Query(
                "sum by (storm_class) (rate(stormfold_alerts_closed_total[$__rate_interval]))"
                " / (sum by (storm_class) (rate(stormfold_storms_closed_total[$__rate_interval])) > 0)",
                "{{storm_class}}",
            ),
        ),
        graph(
            "Written", "Per minute: created, existing already, rejected permanently; and deleted by retention.",
            units.Short,
            Query(
                "sum by (kind, outcome) (rate(stormfold_resources_written_total[$__rate_interval])) * 60",
                "{{kind}} {{outcome}}",
            ),
            Query(
                "sum by (kind) (rate(stormfold_resources_deleted_total[$__rate_interval])) * 60", "{{kind}} deleted"
            ),
        ),
    ]  # fmt: skip


def _delays() -> list[Part]:
    return [
        graph(
            "Storm latency", "From the end of a storm plus grace to its resource.",
            units.Seconds, *quantiles("stormfold_storm_latency_seconds", 0.5, 0.99), steps=DELAY,
        ),
        graph(
            "Close latency", "From the moment at which the horizon passes a storm to its record.", units.Seconds,
            *quantiles("stormfold_close_latency_seconds", 0.5, 0.99),
        ),
        graph(
            "Sink latency", "From the record of a storm or incident to its resource.", units.Seconds,
            *quantiles("stormfold_sink_latency_seconds", 0.5, 0.99),
        ),
        graph(
            "Horizon delay", "Wall clock minus the horizon: storms close this much later.", units.Seconds,
            Query("max(stormfold_horizon_delay_seconds)", "delay"), steps=[(120, "red")],
        ),
    ]  # fmt: skip


def _incidents() -> list[Part]:
    return [
        graph(
            "Incidents", "Announced ones that are open, and those published per hour.", units.Short,
            Query("max(stormfold_incidents_firing)", "open"),
            Query("sum(rate(stormfold_incidents_published_total[$__rate_interval])) * 3600", "published"),
        ),
        graph(
            "Pending", "Storms and isolated aggregates that wait for their incident, in the worker that correlates.",
            units.Short, Query("max(stormfold_pending_aggregates)", "pending"),
        ),
        graph(
            "Announcements", "Per minute: posts to all instances of Alertmanager, and instances that did not take one.",
            units.Short,
            Query("sum(rate(stormfold_announce_posts_total[$__rate_interval])) * 60", "posts"),
            Query("sum(rate(stormfold_announce_errors_total[$__rate_interval])) * 60", "refused"),
        ),
        graph(
            "Storms in no incident", "Per minute: that of their time had been published before.", units.Short,
            Query("sum(rate(stormfold_incident_storms_late_total[$__rate_interval])) * 60", "late"),
        ),
    ]  # fmt: skip


def _wrong() -> list[Part]:
    return [
        graph(
            "Configuration", "1 where the file that is in use is the newest; 0 where a newer one was refused.",
            units.Short,
            Query("min(stormfold_config_last_reload_successful)", "of all workers"),
        ),
        graph(
            "Configuration loaded", "Time since the configuration was last loaded.", units.Seconds,
            Query("time() - min(stormfold_config_last_reload_success_timestamp_seconds)", "the oldest"),
        ),
        graph(
            "Alerts left out by senders", "Per minute: `truncatedAlerts` of webhooks. They never reached stormfold.",
            units.Short, Query("sum(rate(stormfold_alerts_left_out_total[$__rate_interval])) * 60", "left out"),
        ),
        graph(
            "Late and duplicate alerts", "Per second: late, dropped as duplicates, skipped by a rebuild.",
            units.Short,
            Query("sum(rate(stormfold_alerts_late_total[$__rate_interval]))", "late"),
            Query("sum(rate(stormfold_alerts_duplicate_total[$__rate_interval]))", "duplicate"),
            Query("sum(rate(stormfold_alerts_skipped_total[$__rate_interval]))", "skipped by a rebuild"),
        ),
        graph(
            "Alerts that do not qualify or say too little", "Per second: began too long ago, do not say when they "
            "began (they count as new), or whose severity is unknown (it ranks as warning).", units.Short,
            Query("sum(rate(stormfold_alerts_old_total[$__rate_interval]))", "old"),
            Query("sum(rate(stormfold_alerts_start_unknown_total[$__rate_interval]))", "start unknown"),
            Query("sum(rate(stormfold_alerts_severity_unknown_total[$__rate_interval]))", "severity unknown"),
        ),
        graph(
            "Records and groups without a storm", "Per minute: records that report no alert, such as deletions; "
            "isolated aggregates with enough alerts for a storm, but too few new ones.", units.Short,
            Query("sum(rate(stormfold_records_skipped_total[$__rate_interval])) * 60", "records skipped"),
            Query("sum(rate(stormfold_groups_old_total[$__rate_interval])) * 60", "groups with old alerts"),
        ),
        graph(
            "Dead letters", "Records per minute, by topic.", units.Short,
            Query("sum by (topic) (rate(stormfold_dead_letters_total[$__rate_interval])) * 60", "{{topic}}"),
        ),
        graph(
            "Failed writes", "Per minute. action_required: a permission, the definition or a namespace is missing.",
            units.Short,
            Query(
                "sum by (kind, outcome) (rate(stormfold_sink_errors_total[$__rate_interval])) * 60",
                "{{kind}} {{outcome}}",
            ),
        ),
        graph(
            "Waiting by namespace", "Storms and incidents of namespaces that cannot be written now.", units.Short,
            Query(
                "sum by (kind, target_namespace) (stormfold_resources_waiting)", "{{kind}} {{target_namespace}}",
            ),
        ),
        graph(
            "Rare events", "Per minute: batches with alerts before the watermark, records of the keyed topic that are "
            "not stormfold's, groups claimed by another closer, storms of a rebuild published before.", units.Short,
            Query("sum(rate(stormfold_batches_clamped_total[$__rate_interval])) * 60", "batches clamped"),
            Query("sum(rate(stormfold_keyed_records_invalid_total[$__rate_interval])) * 60", "invalid records"),
            Query("sum(rate(stormfold_completion_conflicts_total[$__rate_interval])) * 60", "completion conflicts"),
            Query("sum(rate(stormfold_storms_deduplicated_total[$__rate_interval])) * 60", "storms deduplicated"),
        ),
    ]  # fmt: skip


def _receive() -> list[Part]:
    return [
        graph(
            "Requests", "Requests with alerts per second, by status code of the response.", units.Short,
            Query("sum by (code) (rate(stormfold_receive_requests_total[$__rate_interval]))", "{{code}}"),
        ),
        graph(
            "Records received", "Records per second that `stormfold receive` wrote to Kafka.", units.Short,
            Query("sum(rate(stormfold_receive_records_total[$__rate_interval]))", "records"),
        ),
        graph(
            "Alerts too large", "Alerts per minute that no record can hold: they are not in Kafka.", units.Short,
            Query("sum(rate(stormfold_receive_alerts_too_large_total[$__rate_interval])) * 60", "alerts"),
        ),
        graph(
            "Response time", "From a request with alerts to its response.", units.Seconds,
            *quantiles("stormfold_receive_seconds", 0.5, 0.99),
        ),
    ]  # fmt: skip
