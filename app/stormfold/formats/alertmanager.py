"""Several alerts at once: Alertmanager's webhook (version 4, and Grafana's, made after it) and lists of alerts."""

from collections.abc import Iterable
from functools import partial

from stormfold.alert import Alert
from stormfold.decoding import parse_each
from stormfold.formats.plain import AlertFields, to_alert


def parse_alerts(alerts: Iterable[AlertFields], now: int) -> list[Alert]:
    """All of them at `now` (ms); raises `Poison` if one is wrong, with its place, or if there are none.

    A webhook's `truncatedAlerts` (Alertmanager's `max_alerts`) is of no use: who was left out is not in the record.
    """
    return parse_each(partial(to_alert, now=now), alerts)
