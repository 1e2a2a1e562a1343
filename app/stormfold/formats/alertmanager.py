"""Several alerts at once: Alertmanager's webhook (version 4, and Grafana's, which has the same form), lists of alerts,
and the answers of Alertmanager's and Prometheus' own APIs.
"""

import re
from collections.abc import Iterable
from functools import partial, reduce
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from stormfold.alert import Alert
from stormfold.decoding import decode_json, parse_each
from stormfold.formats.plain import AlertFields, add_labels, to_alert

_NAME = re.compile(rb'"alertname"\s*:\s*"[^"]').search
"""Finds a name that is not empty."""


class _Webhook(msgspec.Struct, gc=False):
    """The labels that the alerts of a webhook have in common."""

    common_labels: Raw | UnsetType = msgspec.field(name="commonLabels", default=UNSET)
    group_labels: Raw | UnsetType = msgspec.field(name="groupLabels", default=UNSET)


class _RuleAlert(AlertFields, gc=False):
    """An alert in Prometheus' `/api/v1/alerts`."""

    active_at: Any = msgspec.field(name="activeAt", default=None)


class _RuleAlerts(msgspec.Struct, gc=False):
    alerts: list[_RuleAlert]


_webhook = msgspec.json.Decoder(_Webhook)
_rule_alerts = msgspec.json.Decoder(_RuleAlerts)
_alerts = msgspec.json.Decoder(list[AlertFields])


def parse_alerts(alerts: Iterable[AlertFields], now: int, group_resolved: bool = False) -> list[Alert]:
    """All alerts at `now` (ms); raises `Poison` with the place of the first wrong one, or if there are none."""
    return parse_each(partial(to_alert, now=now, group_resolved=group_resolved), alerts)


def parse_webhook(value: bytes, fields: list[AlertFields], status: object, now: int) -> list[Alert]:
    """The alerts of a webhook, `value` as a whole. Its own status counts for alerts without one, and its common labels
    for those without a name."""
    alerts = parse_alerts(fields, now, status == "resolved")
    for alert in alerts:
        if not _NAME(alert.labels):
            break
    else:
        return alerts
    webhook = decode_json(_webhook, value)
    shared = [bytes(raw) for raw in (webhook.common_labels, webhook.group_labels) if raw is not UNSET]
    return [msgspec.structs.replace(alert, labels=reduce(add_labels, shared, alert.labels)) for alert in alerts]


def parse_api_v1(data: bytes, now: int) -> list[Alert]:
    """The alerts of Alertmanager's `/api/v1/alerts`: a list."""
    alerts = decode_json(_alerts, data)
    return parse_alerts(alerts, now)


def parse_rule_alerts(data: bytes, now: int) -> list[Alert]:
    """The alerts of Prometheus' `/api/v1/alerts`, without pending ones: `{"alerts": […]}`."""
    alerts = decode_json(_rule_alerts, data).alerts
    for fields in alerts:
        fields.starts_at = fields.active_at
    firing = [fields for fields in alerts if fields.state != "pending"]
    return parse_alerts(firing, now) if firing or not alerts else []
