"""Redis' memory, and what folding costs it."""

from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units

from tests.integration.monitoring.dashboards.parts import BAD, Part, Query, dashboard, figure, graph, quantiles
from tests.integration.monitoring.rules import REDIS_JOB

_JOB = f'{{job="{REDIS_JOB}"}}'
USED = f"(stormfold_redis_used_bytes or redis_memory_used_bytes{_JOB})"
MOST = f"(stormfold_redis_max_bytes or redis_memory_max_bytes{_JOB})"
EVICTED = f"(stormfold_redis_evicted_keys or redis_evicted_keys_total{_JOB})"
RATIO = f"(stormfold_redis_fragmentation_ratio or redis_mem_fragmentation_ratio{_JOB})"
"""What workers tell, and what the exporter does, also when no worker is there."""
SHARE = f"max({USED} / ({MOST} > 0))"
RATE = f"(deriv(stormfold_redis_used_bytes[15m]) or deriv(redis_memory_used_bytes{_JOB}[15m]))"
"""Bytes a second."""
FULL = ((0.8, "orange"), (0.9, "red"))
FRAGMENTED = ((1.5, "orange"), (5, "red"))


def redis() -> models.Dashboard:
    """The page."""
    return dashboard(
        "redis",
        "Redis",
        "How full Redis is, when it will be, what it refuses, how many groups are open, and what folding costs.",
        {"Now": _now(), "Memory": _memory(), "Groups": _groups(), "Folding": _folding(), "Begun anew": _epochs()},
    )


def _now() -> list[Part]:
    return [
        figure(
            "Used", "Of maxmemory. From 85 % on, storms list no new alerts and resources; counts stay exact.",
            SHARE, units.PercentUnit, steps=FULL, empty="no limit is set",
            alerts=["StormfoldRedisMemoryHigh", "StormfoldRedisMemoryCritical"],
        ),
        figure(
            "Full in", "At the rate of the last fifteen minutes.",
            f"min((({MOST} > 0) - {USED}) / clamp_min({RATE}, 1e-6))",
            units.Seconds, steps=[(3600, "orange"), (86400, "green")], below="red", empty="no limit is set",
        ),
        figure(
            "Refused", "Fold calls that found Redis full. They wait; nothing is lost.",
            "sum(increase(stormfold_redis_oom_rejections_total[$__range]))", whole_range=True, steps=BAD,
            alerts=["StormfoldRedisOutOfMemory"],
        ),
        figure(
            "Evicted", "Keys that Redis threw away since it started: any is one too many.",
            f"max({EVICTED})", steps=BAD, empty="Redis is not heard of",
            alerts=["StormfoldRedisEvicts"],
        ),
        figure(
            "Fragmentation", "Resident over used memory. It means something from 100 MB used on.",
            f"max({RATIO})", units.NoUnit, steps=FRAGMENTED, empty="Redis is not heard of",
            alerts=["StormfoldRedisFragmented", "StormfoldRedisFragmentedBadly"],
        ),
    ]  # fmt: skip


def _memory() -> list[Part]:
    return [
        graph(
            "Memory", "What is used, and what may be.", units.BytesIEC,
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
            "Open groups", "Each takes memory until its storm closes; beyond the most of them new ones are not told "
            "apart.", units.Short,
            Query("max(stormfold_open_groups)", "open"),
            Query("min(stormfold_max_groups)", "max_groups"),
            alerts=["StormfoldGroupsNearLimit"],
        ),
        graph(
            "Overflow", "Alerts a second that were folded into overflow groups, as too many groups were open.",
            units.Short, Query("sum(rate(stormfold_alerts_overflowed_total[$__rate_interval]))", "alerts"),
            alerts=["StormfoldGroupsOverflow"],
        ),
    ]  # fmt: skip


def _folding() -> list[Part]:
    return [
        graph(
            "Time of a fold call", "As the worker sees it: the way there and back, and the script.", units.Seconds,
            *quantiles("stormfold_fold_seconds", 0.5, 0.99),
        ),
        graph(
            "Time per alert", "All fold calls over all alerts folded.", units.Seconds,
            Query(
                "sum(rate(stormfold_fold_seconds_sum[$__rate_interval]))"
                " / (sum(rate(stormfold_alerts_folded_total[$__rate_interval])) > 0)",
                "per alert",
            ),
        ),
        graph(
            "Fold calls", "A second, and those of them that a full Redis refused.", units.Short,
            Query("sum(rate(stormfold_fold_seconds_count[$__rate_interval]))", "calls"),
            Query("sum(rate(stormfold_redis_oom_rejections_total[$__rate_interval]))", "refused"),
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


def _epochs() -> list[Part]:
    return [
        graph(
            "Epoch", "Its number. A new one is opened when Redis has lost what was open: it is read again from Kafka.",
            units.NoUnit, Query("max(stormfold_state_version)", "epoch"), alerts=["StormfoldRebuilding"],
        ),
        graph(
            "Epochs opened", "Since the workers started, by why.", units.Short,
            Query("sum by (reason) (stormfold_state_versions_opened_total)", "{{reason}}"),
        ),
    ]  # fmt: skip
