"""The dashboard about Redis: its memory, the open groups, and the cost of folding."""

from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units

from tests.integration.monitoring.dashboards.parts import BAD, Part, Query, dashboard, figure, graph, quantiles
from tests.integration.monitoring.rules import REDIS_JOB

_JOB = f'{{job="{REDIS_JOB}"}}'
USED = f"(stormfold_redis_used_bytes or redis_memory_used_bytes{_JOB})"
MOST = f"(stormfold_redis_max_bytes or redis_memory_max_bytes{_JOB})"
EVICTED = f"(stormfold_redis_evicted_keys or redis_evicted_keys_total{_JOB})"
RATIO = f"(stormfold_redis_fragmentation_ratio or redis_mem_fragmentation_ratio{_JOB})"
"""From the workers and, if none runs, from the exporter of Redis."""
SHARE = f"max({USED} / ({MOST} > 0))"
RATE = f"(deriv(stormfold_redis_used_bytes[15m]) or deriv(redis_memory_used_bytes{_JOB}[15m]))"
"""Bytes per second."""
FULL = ((0.8, "orange"), (0.9, "red"))
FRAGMENTED = ((1.5, "orange"), (5, "red"))


def redis() -> models.Dashboard:
    """Builds the dashboard."""
    return dashboard(
        "redis",
        "Redis",
        "How full Redis is and when it will be full, rejected calls, open groups, and the cost of folding.",
        {
            "Now": _now(),
            "Memory": _memory(),
            "Groups": _groups(),
            "Folding": _folding(),
            "State versions": _state_versions(),
        },
    )


def _now() -> list[Part]:
    return [
        figure(
            "Used", "Of maxmemory. Above 85 %, storms list no new fingerprints and resources; counts stay exact.",
            SHARE, units.PercentUnit, steps=FULL, empty="no limit is set",
            alerts=["StormfoldRedisMemoryHigh", "StormfoldRedisMemoryCritical"],
        ),
        figure(
            "Full in", "At the rate of the last fifteen minutes.",
            f"min((({MOST} > 0) - {USED}) / clamp_min({RATE}, 1e-6))",
            units.Seconds, steps=[(3600, "orange"), (86400, "green")], below="red", empty="no limit is set",
        ),
        figure(
            "Rejected", "Fold calls rejected because Redis is full. Fold waits; nothing is lost.",
            "sum(increase(stormfold_redis_oom_rejections_total[$__range]))", whole_range=True, steps=BAD,
            alerts=["StormfoldRedisOutOfMemory"],
        ),
        figure(
            "Evicted", "Keys that Redis evicted since it started; must be 0.",
            f"max({EVICTED})", steps=BAD, empty="not known",
            alerts=["StormfoldRedisEvicts"],
        ),
        figure(
            "Fragmentation", "Resident over used memory; meaningful above 100 MB.",
            f"max({RATIO})", units.NoUnit, steps=FRAGMENTED, empty="not known",
            alerts=["StormfoldRedisFragmented", "StormfoldRedisFragmentedBadly"],
        ),
    ]  # fmt: skip


def _memory() -> list[Part]:
    return [
        graph(
            "Memory", "Used memory and its limit.", units.BytesIEC,
            Query(f"max({USED})", "used"),
            Query(f"max({MOST})", "maxmemory; 0 without a limit"),
        ),
        graph("Used", "Of maxmemory.", units.PercentUnit, Query(SHARE, "used"), steps=FULL),
        graph(
            "Fragmentation", "Resident over used memory.", units.NoUnit,
            Query(f"max({RATIO})", "resident / used"), steps=FRAGMENTED,
        ),
    ]  # fmt: skip


def _groups() -> list[Part]:
    return [
        graph(
            "Open groups", "Each takes memory until its storm closes. Above max_groups, new groups share an overflow "
            "group.", units.Short,
            Query("max(stormfold_open_groups)", "open"),
            Query("min(stormfold_max_groups)", "max_groups"),
            alerts=["StormfoldGroupsNearLimit"],
        ),
        graph(
            "Overflow", "Alerts per second folded into overflow groups because max_groups was reached.",
            units.Short, Query("sum(rate(stormfold_alerts_overflowed_total[$__rate_interval]))", "alerts"),
            alerts=["StormfoldGroupsOverflow"],
        ),
    ]  # fmt: skip


def _folding() -> list[Part]:
    return [
        graph(
            "Duration of a fold call", "Network and script, as measured by the worker.", units.Seconds,
            *quantiles("stormfold_fold_seconds", 0.5, 0.99),
        ),
        graph(
            "Time per alert", "Time of all fold calls divided by all folded alerts.", units.Seconds,
            Query(
                "sum(rate(stormfold_fold_seconds_sum[$__rate_interval]))"
                " / (sum(rate(stormfold_alerts_folded_total[$__rate_interval])) > 0)",
                "per alert",
            ),
        ),
        graph(
            "Fold calls", "Per second, and those rejected because Redis is full.", units.Short,
            Query("sum(rate(stormfold_fold_seconds_count[$__rate_interval]))", "calls"),
            Query("sum(rate(stormfold_redis_oom_rejections_total[$__rate_interval]))", "rejected"),
        ),
        graph(
            "Alerts in a call", "On average.", units.Short,
            Query(
                'sum(rate(stormfold_batch_alerts_sum{stage="fold"}[$__rate_interval]))'
                ' / (sum(rate(stormfold_batch_alerts_count{stage="fold"}[$__rate_interval])) > 0)',
                "alerts",
            ),
        ),
    ]  # fmt: skip


def _state_versions() -> list[Part]:
    return [
        graph(
            "State version", "When Redis has lost data, a new one is opened and open storms are read again.",
            units.NoUnit, Query("max(stormfold_state_version)", "version"), alerts=["StormfoldRebuilding"],
        ),
        graph(
            "State versions opened", "Since the workers started, by reason.", units.Short,
            Query("sum by (reason) (stormfold_state_versions_opened_total)", "{{reason}}"),
        ),
    ]  # fmt: skip
