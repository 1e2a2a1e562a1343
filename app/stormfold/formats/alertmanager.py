"""Several alerts at once: Alertmanager's webhook (version 4, and Grafana's, made after it) and lists of alerts."""

from collections.abc import Iterable
from functools import partial

from stormfold.alert import Incoming, read_each
from stormfold.formats.plain import Alert, incoming


def read(alerts: Iterable[Alert], now: int) -> list[Incoming]:
    """All of them at `now` (ms); raises `Poison` if one is wrong, with its place, or if there are none.

    A webhook's `truncatedAlerts` (Alertmanager's `max_alerts`) is of no use: who was left out is not in the record.
    """
    return read_each(partial(incoming, now=now), alerts)
