"""Alerts that tests publish, and the records that carry them."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec


class Sent(NamedTuple):
    """One record to publish to `alerts`."""

    time: int
    """Its timestamp (ms)."""
    value: bytes | None
    partition: int = 0
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()


def alert(name: str = "Down", *, pod: str = "", resolved: bool = False, **labels: str) -> dict[str, Any]:
    """Returns a plain alert of the group (name, cluster `c`)."""
    labels = {"alertname": name, "cluster": "c", "severity": "warning", **labels}
    if pod:
        labels |= {"pod": pod, "namespace": "ns"}
    return {"labels": labels, "annotations": {}, "status": "resolved" if resolved else "firing"}


def record(*alerts: dict[str, Any]) -> bytes:
    """Encodes one alert as a record of its own, several as a list."""
    return msgspec.json.encode(alerts[0] if len(alerts) == 1 else alerts)


def spread(name: str, count: int, start: int, *, groups: int = 1, step: int = 1, partitions: int = 3) -> list[Sent]:
    """Returns records of one alert each, about different pods, `step` ms apart, in turn over partitions and groups.

    With more than one group, the group's number is appended to the name.
    """
    names = [name] if groups == 1 else [f"{name}{number}" for number in range(groups)]
    return [
        Sent(start + step * n, record(alert(names[n % groups], pod=f"pod-{n}")), n % partitions) for n in range(count)
    ]


def in_order(*partitions: Sequence[tuple[int, dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
    """Merges the (time, alert) pairs of several partitions in order of time."""
    return sorted((entry for partition in partitions for entry in partition), key=lambda entry: entry[0])


def now() -> int:
    """Returns the wall-clock time in ms."""
    return time.time_ns() // 1_000_000
