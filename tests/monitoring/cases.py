"""For each alert of k8s/monitoring/rules.yaml: series that make it fire and resolve, and some that nearly do.

Series are as `promtool test rules` takes them, a value a minute: `1x5` is six times 1, `0+10x5` rises by 10 five times,
`_` is no value.
"""

from typing import NamedTuple

WORKER = 'instance="w1", job="stormfold"'
MB = 1_000_000


class Case(NamedTuple):
    """Minutes count from the first value."""

    series: dict[str, str]
    fires: int
    """A minute at which it fires."""
    resolved: int
    """A later one at which it doesn't any more."""
    labels: str
    """What it fires with, besides its name and severity."""
    near: dict[str, str]
    """With these it never fires."""


def _of(metric: str, **labels: str) -> str:
    """A series of one worker."""
    own = "".join(f', {name}="{value}"' for name, value in labels.items())
    return f"{metric}{{{WORKER}{own}}}"


_LAG, _POSITION, _AGE = "stormfold_lag_records", "stormfold_position", "stormfold_event_age_seconds"
_BUILD = _of("stormfold_build_info", version="0.1.0", python="3.11.14")
_USED, _MAX = _of("stormfold_redis_used_bytes"), _of("stormfold_redis_max_bytes")
_RATIO = _of("stormfold_redis_fragmentation_ratio")
_STAGES = {_of(_LAG, stage=stage, partition="0"): "0x40" for stage in ("intake", "fold", "emit")}
_HORIZON = _of("stormfold_horizon_delay_seconds")
_LETTERS = _of("stormfold_dead_letters_total", topic="alerts-dead")
_ERRORS = _of("stormfold_sink_errors_total", kind="stop")
_UNREAD = 'kafka_consumergroup_lag{consumergroup="stormfold-fold", topic="alerts-by-fingerprint", partition="0"}'

CASES = {
    "StormfoldDown": Case(
        {_BUILD: "1x5 stale _x9 1x20"}, fires=10, resolved=20, labels="",
        near={_BUILD: "1x5 stale _ 1x100"},
    ),
    "StormfoldWorkerDown": Case(
        {f"up{{{WORKER}}}": "1x5 0x9 1x10"}, fires=10, resolved=20, labels=WORKER,
        near={f"up{{{WORKER}}}": "1x5 0 1x20", 'up{instance="x", job="other"}': "0x30"},
    ),
    "StormfoldStageMissing": Case(
        {_BUILD: "1x40", _HORIZON: "1x40", **_STAGES, _of(_LAG, stage="fold", partition="0"): "0x5 stale _x19 0x10"},
        fires=20, resolved=30, labels='stage="fold"',
        near={
            _BUILD: "1x40", _HORIZON: "1x40", **_STAGES,
            _of(_LAG, stage="emit", partition="0"): "0x5 stale _x5 0x30",
        },
    ),
    "StormfoldNotReady": Case(
        {_of("stormfold_trouble", part="emit"): "_x5 1x9 stale"},
        fires=12, resolved=16, labels=f'{WORKER}, part="emit"',
        near={_of("stormfold_trouble", part="emit"): "1x3 stale _x5 1x3 stale"},
    ),
    "StormfoldLagGrowing": Case(
        {_of(_LAG, stage="fold", partition="0"): "0x5 0+200x30 0x20", _of(_LAG, stage="fold", partition="1"): "0x60"},
        fires=30, resolved=50, labels='stage="fold"',
        near={
            _of(_LAG, stage="fold", partition="0"): "9000-100x60",
            _of(_LAG, stage="intake", partition="0"): "0+10x60",
        },
    ),
    "StormfoldNotCatchingUp": Case(
        {_of(_AGE, stage="fold", partition="0"): "1x5 0+60x30 1800-120x15"}, fires=30, resolved=45,
        labels='stage="fold"',
        near={
            _of(_AGE, stage="fold", partition="0"): "3600-30x60",
            _of(_AGE, stage="intake", partition="0"): "500x60",
        },
    ),
    "StormfoldStageStalled": Case(
        {
            _of(_LAG, stage="fold", partition="2"): "0x5 7x20 0x20",
            _of(_POSITION, stage="fold", partition="2"): "100x25 107x20",
        },
        fires=20, resolved=30, labels='stage="fold", partition="2"',
        near={
            _of(_LAG, stage="fold", partition="2"): "7x60",
            _of(_POSITION, stage="fold", partition="2"): "100+1x60",
            _of(_LAG, stage="fold", partition="3"): "0x60",
            _of(_POSITION, stage="fold", partition="3"): "100x60",
        },
    ),
    "StormfoldLagUnattended": Case(
        {_UNREAD: "0x5 0+50x20 0x10", _of("stormfold_ready"): "1x5 stale _x20 1x10"},
        fires=20, resolved=30, labels='consumergroup="stormfold-fold", topic="alerts-by-fingerprint"',
        near={
            _UNREAD: "50x60",
            _of("stormfold_ready"): "1x60",
            'kafka_consumergroup_lag{consumergroup="other", topic="t", partition="0"}': "50x60",
        },
    ),
    "StormfoldLostRecords": Case(
        {_of("stormfold_lost_records", stage="fold", partition="1"): "_x5 12x5 stale"},
        fires=30, resolved=90, labels='stage="fold", partition="1"',
        near={_of("stormfold_lost_records", stage="fold", partition="1"): "0x30"},
    ),
    "StormfoldHorizonDelayed": Case(
        {_HORIZON: "1x5 0+60x15 2x10"}, fires=20, resolved=25, labels="",
        near={_HORIZON: "1x5 300x2 2x10 119x30"},
    ),
    "StormfoldPartitionLeftOut": Case(
        {_of("stormfold_stalled_partitions"): "0x5 3x10 0x10"}, fires=10, resolved=20, labels="",
        near={_of("stormfold_stalled_partitions"): "0x30"},
    ),
    "StormfoldRedisMemoryHigh": Case(
        {_USED: f"{300 * MB}x5 {420 * MB}x10 {300 * MB}x10", _MAX: f"{500 * MB}x30"},
        fires=12, resolved=20, labels="",
        near={_USED: f"{395 * MB}x30", _MAX: f"{500 * MB}x30"},
    ),
    "StormfoldRedisMemoryCritical": Case(
        {_USED: f"{300 * MB}x5 {460 * MB}x10 {300 * MB}x10", _MAX: f"{500 * MB}x30"},
        fires=10, resolved=20, labels="",
        # Without a limit there is no share of it.
        near={_USED: f"{445 * MB}x30", _MAX: f"{500 * MB}x10 0x20"},
    ),
    "StormfoldRedisRefuses": Case(
        {_of("stormfold_redis_refused_total"): "0x5 0+1x5 5x20"}, fires=8, resolved=20, labels="",
        near={_of("stormfold_redis_refused_total"): "0x10 stale _x2 0x10"},
    ),
    "StormfoldRedisEvicts": Case(
        {_of("stormfold_redis_evicted_keys"): "0x5 17x5 0x5"}, fires=8, resolved=14, labels="",
        near={_of("stormfold_redis_evicted_keys"): "0x20"},
    ),
    "StormfoldRedisFragmented": Case(
        {_RATIO: "1.2x5 2x30 1.2x10", _USED: f"{200 * MB}x50"}, fires=30, resolved=40, labels="",
        near={_RATIO: "1.4x20 1.6x10 6x30", _USED: f"{200 * MB}x70"},
    ),
    "StormfoldRedisFragmentedBadly": Case(
        {_RATIO: "1.2x5 6x30 1.2x10", _USED: f"{200 * MB}x50"}, fires=30, resolved=40, labels="",
        # An empty Redis is all overhead.
        near={_RATIO: "13x30 5x30", _USED: f"{99 * MB}x30 {200 * MB}x30"},
    ),
    "StormfoldRebuilding": Case(
        {_of("stormfold_epoch"): "3x20 stale _x3 4x30"}, fires=26, resolved=40, labels="",
        near={_of("stormfold_epoch"): "_x5 1x20 stale _x3 1x30"},
    ),
    "StormfoldDeadLetters": Case(
        {_LETTERS: "0x5 4x40"}, fires=10, resolved=30, labels='topic="alerts-dead"',
        near={_LETTERS: "9x10 stale _x2 0x20"},
    ),
    "StormfoldSinkErrors": Case(
        {_ERRORS: "0x5 0+12x15 180x20"}, fires=15, resolved=30, labels='kind="stop"',
        near={_ERRORS: "0x5 1x30"},
    ),
    "StormfoldStormsWaiting": Case(
        {_of(_LAG, stage="emit", partition="0"): "0x5 8x20 0x10"}, fires=20, resolved=30, labels="",
        near={_of(_LAG, stage="emit", partition="0"): "8x5 0 8x5 0x10", _of(_LAG, stage="fold", partition="0"): "8x30"},
    ),
}  # fmt: skip
