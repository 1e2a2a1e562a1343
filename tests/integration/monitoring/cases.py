"""Series for each alert of k8s/monitoring/rules.yaml: some make it fire and resolve, others almost do.

Series have the notation of `promtool test rules`, one value per minute: `1x5` is six times 1, `0+10x5` rises by 10 five
times, `_x5` is five times no value. Thresholds are exceeded narrowly, by several workers and partitions if a rule sums.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stormfold import __version__

WORKER, OTHER = 'instance="w1", job="stormfold"', 'instance="w2", job="stormfold"'
EXPORTER = 'instance="x", job="stormfold-redis"'
MB = 1_000_000

Series = Mapping[str, str]


class Case(NamedTuple):
    """Minutes count from the first value."""

    series: Series
    fires: int
    """The first minute at which it fires."""
    resolved: int
    """The first minute at which it no longer fires; it does not fire again."""
    labels: str
    """Its labels, besides name and severity."""
    near: Sequence[Series] = ()
    """It never fires with any of these."""


def _of(metric: str, worker: str = WORKER, **labels: str) -> str:
    """A series of one worker."""
    own = "".join(f', {name}="{value}"' for name, value in labels.items())
    return f"{metric}{{{worker}{own}}}"


def _in(metric: str, stage: str, partition: int, worker: str = WORKER) -> str:
    """A series of a partition."""
    return _of(f"stormfold_{metric}", worker, stage=stage, partition=str(partition))


def _unread(partition: int, group: str = "stormfold-fold") -> str:
    """The lag of a partition from the Kafka exporter; -1 without any commit."""
    labels = f'consumergroup="{group}", topic="alerts-by-fingerprint", partition="{partition}"'
    return f"kafka_consumergroup_lag{{{labels}}}"


_IDLE = _of("stormfold_idle_partition_pairs")
_BUILD = _of("stormfold_build_info", version=__version__, python="3.11.14")
_AGE = "event_time_lag_seconds"
_CLOSED = _of("stormfold_closed_before_age_seconds")
_HORIZON = _of("stormfold_horizon_delay_seconds")
_READERS = ("intake", "fold", "correlate", "emit", "emit-incidents")
_STAGES = {_in("lag_records", stage, 0): "0x40" for stage in _READERS}
_LETTERS = _of("stormfold_dead_letters_total", topic="alerts-dlq")
_ERRORS = _of("stormfold_sink_errors_total", kind="AlertIncident", outcome="action_required")
_REJECTED = "stormfold_redis_oom_rejections_total"
_OVERFLOWED = "stormfold_alerts_overflowed_total"
_VERSION = "stormfold_state_version"


def _redis(**figures: str) -> dict[str, str]:
    """Metrics of Redis from two workers; a third worker has a healthy Redis."""
    names = {"used": "used_bytes", "most": "max_bytes", "ratio": "fragmentation_ratio", "evicted": "evicted_keys"}
    healthy = {"used": f"{110 * MB}x99", "most": f"{500 * MB}x99", "ratio": "1.1x99", "evicted": "0x99"}
    return {
        _of(f"stormfold_redis_{names[name]}", worker): values
        for worker, values_of in ((WORKER, figures), (OTHER, figures), (OTHER.replace("w2", "w3"), healthy))
        for name, values in values_of.items()
    }


def _exported(**figures: str) -> dict[str, str]:
    """Metrics of Redis from its exporter, without workers."""
    names = {
        "used": "memory_used_bytes", "most": "memory_max_bytes", "ratio": "mem_fragmentation_ratio",
        "evicted": "evicted_keys_total",
    }  # fmt: skip
    return {_of(f"redis_{names[name]}", EXPORTER): values for name, values in figures.items()}


def _groups(opened: str, seen_by_other: str, most: str = "1000x99", others: str = "1000x99") -> dict[str, str]:
    """Open groups from two workers that close, and max_groups from two workers that fold."""
    return {
        _of("stormfold_open_groups"): opened,
        _of("stormfold_open_groups", OTHER): seen_by_other,
        _of("stormfold_max_groups"): most,
        _of("stormfold_max_groups", OTHER): others,
    }


def _of_others(series: Series) -> Series:
    """The same series for a Redis that stormfold does not use."""
    return {name.replace('job="stormfold-redis"', 'job="redis"'): values for name, values in series.items()}


_FILLING = {"used": f"{300 * MB}x5 {405 * MB}x10 {300 * MB}x10", "most": f"{500 * MB}x30"}
_FULL = {"used": f"{300 * MB}x5 {455 * MB}x10 {300 * MB}x10", "most": f"{500 * MB}x30"}
_FRAGMENTED = {"ratio": "1.2x5 1.55x10 4.9x20 1.2x10", "used": f"{101 * MB}x50"}
_BADLY = {"ratio": "1.2x5 5.1x30 1.2x10", "used": f"{101 * MB}x50"}
_EVICTING = {"evicted": "0x5 17x5 0x5"}

CASES: dict[str, Sequence[Case]] = {
    "StormfoldDown": [
        Case({_BUILD: "1x5 stale _x9 1x100"}, fires=8, resolved=16, labels="", near=[{_BUILD: "1x5 stale _ 1x100"}])
    ],
    "StormfoldWorkerDown": [
        Case(
            {f"up{{{WORKER}}}": "1x5 0x9 1x10", f"up{{{OTHER}}}": "1x60"}, fires=8, resolved=16, labels=WORKER,
            near=[{f"up{{{WORKER}}}": "1x5 0x1 1x20", 'up{instance="x", job="other"}': "0x30"}],
        )
    ],
    "StormfoldStageMissing": [
        Case(
            {_BUILD: "1x40", _HORIZON: "1x40", **_STAGES, _in("lag_records", "fold", 0): "0x5 stale _x19 0x10"},
            fires=16, resolved=26, labels='stage="fold"',
            near=[{
                _BUILD: "1x40", _HORIZON: "1x40", **_STAGES,
                _in("lag_records", "emit", 0): "0x5 stale _x9 0x30",
            }],
        )
    ],
    "StormfoldConfigRefused": [
        Case(
            {_of("stormfold_config_last_reload_successful"): "1x5 0x9 1x9"},
            fires=11, resolved=16, labels=WORKER,
            near=[{_of("stormfold_config_last_reload_successful"): "0x4 1 0x4 1x9"}],
        )
    ],
    "StormfoldNotReady": [
        Case(
            {_of("stormfold_component_unhealthy", component="emit"): "_x5 1x9 stale"},
            fires=10, resolved=15, labels=f'{WORKER}, component="emit"',
            near=[
                {_of("stormfold_component_unhealthy", component="emit"): "1x4 stale _x5 1x4 stale"},
                {_of("stormfold_component_unhealthy", component="emit"): "0x30"},
            ],
        )
    ],
    "StormfoldLagGrowing": [
        Case(
            {_in("lag_records", "fold", 0): "0x5 0+60x40 2400x40", _in("lag_records", "fold", 1, OTHER): "700x90"},
            fires=22, resolved=56, labels='stage="fold"',
            near=[
                # One partition more, another less.
                {_in("lag_records", "fold", 0): "0+50x60", _in("lag_records", "fold", 1, OTHER): "4000-50x60"},
                {_in("lag_records", "fold", 0): "1500x60", _in("lag_records", "fold", 1, OTHER): "1500x60"},
                {_in("lag_records", "fold", 0): "0+5x90", _in("lag_records", "fold", 1, OTHER): "0+5x90"},
                # Two stages.
                {_in("lag_records", "fold", 0): "0+10x90", _in("lag_records", "intake", 0): "0+10x90"},
                # For nine minutes.
                {_in("lag_records", "fold", 0): "0x20 2000x18 0x30"},
            ],
        )
    ],
    "StormfoldNotCatchingUp": [
        Case(
            {
                _in(_AGE, "fold", 0): "1x5 0+50x14 700x30 600x20",
                _in(_AGE, "fold", 1, OTHER): "5x80",
            },
            fires=24, resolved=52, labels='stage="fold"',
            near=[
                {_in(_AGE, "fold", 0): "3600-30x60", _in(_AGE, "fold", 1, OTHER): "5x60"},
                {
                    _in(_AGE, "fold", 0): "590x60",
                    _in(_AGE, "fold", 1, OTHER): "590x60",
                    _in(_AGE, "intake", 0): "590x60",
                },
                # One partition gets older, but not as old as the other was.
                {_in(_AGE, "fold", 0): "3000-30x60", _in(_AGE, "fold", 1): "0+10x60"},
                {_in(_AGE, "fold", 0): "5x20 700x4 5x30"},
            ],
        )
    ],
    "StormfoldStageStalled": [
        Case(
            {
                _in("lag_records", "fold", 2): "0x5 7x20 0x20",
                _in("position", "fold", 2): "100+1x5 105x20 107x20",
                # Whose it was before.
                _in("position", "fold", 2, OTHER): "99x12 stale",
                _in("lag_records", "fold", 1, OTHER): "7x60",
                _in("position", "fold", 1, OTHER): "100+1x60",
            },
            fires=15, resolved=27, labels='stage="fold", partition="2"',
            near=[
                {
                    _in("lag_records", "fold", 2): "7x60",
                    _in("position", "fold", 2): "100+1x60",
                    _in("lag_records", "fold", 3, OTHER): "0x60",
                    _in("position", "fold", 3, OTHER): "100x60",
                },
                {_in("lag_records", "emit", 0): "7x60", _in("position", "emit", 0): "100x9 101x9 102x9 103x9 104+1x60"},
            ],
        )
    ],
    "StormfoldLagUnattended": [
        Case(
            {
                _unread(0): "0x5 1x20 0x10", _unread(1): "-1x60", _unread(2): "-1x60",
                _of("stormfold_ready"): "1x5 0x20 1x10", _of("stormfold_ready", OTHER): "1x5 stale",
            },
            fires=11, resolved=27, labels='consumergroup="stormfold-fold", topic="alerts-by-fingerprint"',
            near=[
                # Somebody is ready.
                {_unread(0): "50x60", _of("stormfold_ready"): "0x60", _of("stormfold_ready", OTHER): "1x60"},
                {_unread(0): "0x60", _unread(1): "0x60", _unread(2): "-1x60"},
                {_unread(0, "other"): "50x60"},
                {_unread(0): "0x5 50x4 0x60"},
            ],
        )
    ],
    "StormfoldLostRecords": [
        Case(
            {_of("stormfold_lost_records_total", stage="fold", partition="1"): "_x5 12x5 stale"},
            fires=5, resolved=70, labels='stage="fold", partition="1"',
            near=[{_of("stormfold_lost_records_total", stage="fold", partition="1"): "0x30"}],
        )
    ],
    "StormfoldHorizonDelayed": [
        Case(
            {_HORIZON: "1x5 125x15 2x10", _of("stormfold_horizon_delay_seconds", OTHER): "119x40"},
            fires=11, resolved=22, labels="",
            near=[
                {_HORIZON: "1x5 300x4 2x10 119x30"},
                {_HORIZON: "119x60", _of("stormfold_horizon_delay_seconds", OTHER): "119x60"},
            ],
        )
    ],
    "StormfoldIncidentsDelayed": [
        Case(
            {_CLOSED: "600x5 1900x15 700x9", _of("stormfold_closed_before_age_seconds", OTHER): "1799x40"},
            fires=11, resolved=22, labels="",
            near=[{_CLOSED: "600x5 1900x4 700x30"}, {_CLOSED: "1799x60"}],
        )
    ],
    "StormfoldPartitionIdle": [
        Case(
            {_IDLE: "0x5 1x10 0x10", _of("stormfold_idle_partition_pairs", OTHER): "0x30"},
            fires=7, resolved=17, labels="",
            near=[{_IDLE: "0x30"}, {_IDLE: "0x5 3 0x30"}],
        )
    ],
    "StormfoldRedisMemoryHigh": [
        Case(
            _redis(**_FILLING), fires=11, resolved=17, labels="",
            near=[
                # Without a limit there is no share of it.
                _redis(used=f"{395 * MB}x30", most=f"{500 * MB}x10 0x20"),
                _redis(used=f"{300 * MB}x5 {450 * MB}x4 {300 * MB}x30", most=f"{500 * MB}x30"),
                _of_others(_exported(**_FULL)),
            ],
        ),
        Case(
            _exported(**_FILLING), fires=11, resolved=17, labels="",
            near=[_exported(used=f"{395 * MB}x30", most=f"{500 * MB}x10 0x20")],
        ),
    ],
    "StormfoldRedisMemoryCritical": [
        Case(
            _redis(**_FULL), fires=7, resolved=17, labels="",
            near=[
                _redis(used=f"{445 * MB}x30", most=f"{500 * MB}x10 0x20"),
                _redis(used=f"{300 * MB}x5 {490 * MB} {300 * MB}x30", most=f"{500 * MB}x40"),
                _of_others(_exported(**_FULL)),
            ],
        ),
        Case(
            _exported(**_FULL), fires=7, resolved=17, labels="",
            near=[_exported(used=f"{445 * MB}x30", most=f"{500 * MB}x10 0x20")],
        ),
    ],
    "StormfoldRedisOutOfMemory": [
        Case(
            {_of(_REJECTED): "0x5 0+1x5 5x20", _of(_REJECTED, OTHER): "3x40"}, fires=7, resolved=15, labels="",
            near=[{_of(_REJECTED): "7x10 stale _x2 0x10"}],
        )
    ],
    "StormfoldRedisEvicts": [
        Case(_redis(**_EVICTING), fires=6, resolved=12, labels="", near=[_redis(evicted="0x20")]),
        Case(
            _exported(**_EVICTING), fires=6, resolved=12, labels="",
            near=[_exported(evicted="0x20"), _of_others(_exported(**_EVICTING))],
        ),
    ],
    "StormfoldRedisFragmented": [
        Case(
            _redis(**_FRAGMENTED), fires=21, resolved=38, labels="",
            near=[
                _redis(ratio="1.45x30 1.6x14 5.1x40", used=f"{200 * MB}x90"),
                # An empty Redis is all overhead.
                _redis(ratio="2x60", used=f"{99 * MB}x60"),
            ],
        ),
        Case(
            _exported(**_FRAGMENTED), fires=21, resolved=38, labels="",
            near=[
                _exported(ratio="1.45x30 1.6x14 5.1x40", used=f"{200 * MB}x90"),
                _exported(ratio="2x60", used=f"{99 * MB}x60"),
                _of_others(_exported(**_FRAGMENTED)),
            ],
        ),
    ],
    "StormfoldRedisFragmentedBadly": [
        Case(
            _redis(**_BADLY), fires=21, resolved=37, labels="",
            near=[
                _redis(ratio="13x30 4.9x30", used=f"{99 * MB}x30 {200 * MB}x30"),
                _redis(ratio="1.2x5 6x14 1.2x30", used=f"{200 * MB}x60"),
            ],
        ),
        Case(
            _exported(**_BADLY), fires=21, resolved=37, labels="",
            near=[
                _exported(ratio="13x30 4.9x30", used=f"{99 * MB}x30 {200 * MB}x30"),
                _of_others(_exported(**_BADLY)),
            ],
        ),
    ],
    "StormfoldRebuilding": [
        Case(
            {_of(_VERSION): "3x20 stale _x3 4x30", _of(_VERSION, OTHER): "3x20 stale _x3 4x30"},
            fires=25, resolved=35, labels="",
            near=[{_of(_VERSION): "_x5 1x20 stale _x3 1x30"}],
        ),
        # More than an hour ago there was another Redis.
        Case({_of(_VERSION): "9x10 3x74 4x20", _of(_VERSION, OTHER): "3x99"}, fires=86, resolved=96, labels=""),
    ],
    "StormfoldGroupsNearLimit": [
        Case(
            _groups("500x5 801x15 500x20", "100x60"), fires=11, resolved=22, labels="",
            near=[
                _groups("799x60", "799x60"),
                _groups("500x5 950x4 500x30", "500x60"),
            ],
        ),
        # One that folds was given less.
        Case(_groups("500x5 850x15 500x20", "0x60", others="5000x99"), fires=11, resolved=22, labels=""),
    ],
    "StormfoldGroupsOverflow": [
        Case(
            {_of(_OVERFLOWED): "0x5 40x40", _of(_OVERFLOWED, OTHER): "0x60"}, fires=6, resolved=25, labels="",
            near=[{_of(_OVERFLOWED): "9x10 stale _x2 0x20"}],
        )
    ],
    "StormfoldDeadLetters": [
        Case(
            {_LETTERS: "0x5 4x40"}, fires=6, resolved=20, labels='topic="alerts-dlq"',
            near=[{_LETTERS: "9x10 stale _x2 0x20"}],
        )
    ],
    "StormfoldSinkErrors": [
        Case(
            {_ERRORS: "0x5 0+12x15 180x20"}, fires=12, resolved=25,
            labels='kind="AlertIncident", outcome="action_required"',
            near=[{_ERRORS: "0x5 1x30"}],
        )
    ],
    "StormfoldStormsWaiting": [
        Case(
            {_in("lag_records", "emit", 0): "0x5 8x20 0x10", _in("lag_records", "emit", 1, OTHER): "0x60"},
            fires=16, resolved=27, labels='stage="emit"',
            near=[{
                _in("lag_records", "emit", 0): "0x5 8x9 0 8x9 0x10",
                _in("lag_records", "fold", 0): "8x30",
            }],
        )
    ],
}  # fmt: skip
