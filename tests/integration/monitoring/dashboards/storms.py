"""What becomes of alerts: storms that form, close and are written, how soon, and what is not as it should be."""

from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units

from tests.integration.monitoring.dashboards.parts import BAD, DELAY, Part, Query, dashboard, figure, graph, quantiles

CLOSED = "sum by (storm_class) (rate(stormfold_{}_closed_total[$__rate_interval])) * 60"
SOME: tuple[tuple[float, str], ...] = ((1, "orange"),)


def storms() -> models.Dashboard:
    """The page."""
    return dashboard(
        "storms",
        "storms",
        "Storms that form, close and are written; how many alerts each stands for; how soon; what went wrong.",
        {
            "In this time": _now(),
            "From alerts to storms": _flow(),
            "How soon": _delays(),
            "Not as it should be": _wrong(),
        },
    )


def _of_range(metric: str) -> str:
    """How many in the whole time range."""
    return f"sum(increase({metric}[$__range]))"


def _now() -> list[Part]:
    closed = _of_range('stormfold_storms_closed_total{storm_class="Storm"}')
    return [
        figure("Forming now", "Groups with something not yet closed.", "max(stormfold_open_groups)", empty="no worker"),
        figure("Storms closed", "Of class Storm.", closed, whole_range=True),
        figure(
            "Alerts for a storm", "How many alerts, isolated and silenced ones too, there were for each storm of "
            "class Storm: what a person is spared.",
            f"{_of_range('stormfold_alerts_closed_total')} / ({closed} > 0)", whole_range=True, empty="no storm yet",
        ),
        figure(
            "Storms written", "Handed to the sink for the first time.",
            _of_range('stormfold_storms_written_total{outcome="created"}'), whole_range=True,
        ),
        figure(
            "Waiting to be written", "Closed, and not yet handed to the sink.",
            'sum(stormfold_lag_records{stage="emit"})', steps=SOME, empty="no emitter",
            alerts=["StormfoldStormsWaiting"],
        ),
        figure(
            "Alerts understood", "By intake.", _of_range("stormfold_alerts_read_total"), whole_range=True,
        ),
        figure(
            "Late alerts", "That came more than the grace behind: counted, but where depends on when they came.",
            _of_range("stormfold_alerts_late_total"), whole_range=True, steps=SOME,
        ),
        figure(
            "Duplicates dropped", "Seen again after a crash or a rebalance, and not counted again.",
            _of_range("stormfold_alerts_duplicate_total"), whole_range=True,
        ),
        figure(
            "Dead letters", "Records that nobody understood, and storms that the sink rejected for good.",
            _of_range("stormfold_dead_letters_total"), whole_range=True, steps=SOME, alerts=["StormfoldDeadLetters"],
        ),
        figure(
            "Failed writes", "All are tried again.", _of_range("stormfold_sink_errors_total"), whole_range=True,
            steps=SOME, alerts=["StormfoldSinkErrors"],
        ),
        figure(
            "Never written", "Rejected by the sink for good: parked in the topic of dead storms.",
            _of_range('stormfold_storms_written_total{outcome="parked"}'), whole_range=True, steps=BAD,
        ),
    ]  # fmt: skip


def _flow() -> list[Part]:
    return [
        graph(
            "Alerts", "A second: understood by intake, folded, in storms that closed.", units.Short,
            Query("sum(rate(stormfold_alerts_read_total[$__rate_interval]))", "understood"),
            Query("sum(rate(stormfold_alerts_folded_total[$__rate_interval]))", "folded"),
            Query("sum(rate(stormfold_alerts_closed_total[$__rate_interval]))", "closed"),
        ),
        graph(
            "Forming", "Groups with something not yet closed.", units.Short,
            Query("max(stormfold_open_groups)", "open"),
        ),
        graph(
            "Storms closed", "A minute, by class.", units.Short, Query(CLOSED.format("storms"), "{{storm_class}}"),
            stacked=True,
        ),
        graph(
            "Alerts closed", "A minute, by the class that they ended in.", units.Short,
            Query(CLOSED.format("alerts"), "{{storm_class}}"), stacked=True,
        ),
        graph(
            "Alerts for a storm", "How many there are in one, on average.", units.Short,
            Query(
                "sum by (storm_class) (rate(stormfold_alerts_closed_total[$__rate_interval]))"
                " / (sum by (storm_class) (rate(stormfold_storms_closed_total[$__rate_interval])) > 0)",
                "{{storm_class}}",
            ),
        ),
        graph(
            "Written", "A minute: created, there already, rejected for good; and deleted by retention.", units.Short,
            Query("sum by (outcome) (rate(stormfold_storms_written_total[$__rate_interval])) * 60", "{{outcome}}"),
            Query("sum(rate(stormfold_resources_deleted_total[$__rate_interval])) * 60", "deleted"),
        ),
    ]  # fmt: skip


def _delays() -> list[Part]:
    return [
        graph(
            "Over to written", "From when a storm is over, and the grace, to its resource: what its readers notice.",
            units.Seconds, *quantiles("stormfold_storm_latency_seconds", 0.5, 0.99), steps=DELAY,
        ),
        graph(
            "Final to published", "From when the horizon has passed a storm to its record.", units.Seconds,
            *quantiles("stormfold_close_latency_seconds", 0.5, 0.99),
        ),
        graph(
            "Published to written", "From a storm's record to its resource.", units.Seconds,
            *quantiles("stormfold_sink_latency_seconds", 0.5, 0.99),
        ),
        graph(
            "Horizon delay", "How much later than the clock storms close.", units.Seconds,
            Query("max(stormfold_horizon_delay_seconds)", "delay"), steps=[(120, "red")],
        ),
    ]  # fmt: skip


def _wrong() -> list[Part]:
    return [
        graph(
            "Late and seen again", "Alerts a second: late, dropped as duplicates, before the beginning of a rebuild.",
            units.Short,
            Query("sum(rate(stormfold_alerts_late_total[$__rate_interval]))", "late"),
            Query("sum(rate(stormfold_alerts_duplicate_total[$__rate_interval]))", "duplicate"),
            Query("sum(rate(stormfold_alerts_skipped_total[$__rate_interval]))", "before a rebuild"),
        ),
        graph(
            "Dead letters", "Records a minute, by topic.", units.Short,
            Query("sum by (topic) (rate(stormfold_dead_letters_total[$__rate_interval])) * 60", "{{topic}}"),
        ),
        graph(
            "Failed writes", "A minute. Those to stop for wait for a person: a right, a definition, a namespace.",
            units.Short,
            Query("sum by (outcome) (rate(stormfold_sink_errors_total[$__rate_interval])) * 60", "{{outcome}}"),
        ),
        graph(
            "Oddities", "A minute: batches with alerts before the watermark, records of the keyed topic that nobody "
            "here wrote, groups that another closer has, storms of a rebuild that were published before.", units.Short,
            Query("sum(rate(stormfold_batches_clamped_total[$__rate_interval])) * 60", "batches behind"),
            Query("sum(rate(stormfold_keyed_records_invalid_total[$__rate_interval])) * 60", "unknown records"),
            Query("sum(rate(stormfold_completion_conflicts_total[$__rate_interval])) * 60", "left to another closer"),
            Query("sum(rate(stormfold_storms_deduplicated_total[$__rate_interval])) * 60", "published before"),
        ),
    ]  # fmt: skip
