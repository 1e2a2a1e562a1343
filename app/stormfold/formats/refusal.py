"""The reason for which a record without a known format is refused: a remedy or what is accepted, and its keys."""

from collections.abc import Mapping

from stormfold.decoding import Poison

_MAX_KEYS = 80
"""Characters of keys that a reason repeats."""

_REMEDIES: tuple[tuple[frozenset[str], str], ...] = (
    (
        frozenset({"alert_state", "client"}),
        "Grafana's Kafka contact point sends no labels: use its webhook contact point",
    ),
    (
        frozenset({"schema", "payload"}),
        "Kafka Connect's envelope: set schemas.enable=false for the converter",
    ),
    (
        frozenset({"labels"}),
        "labels have no alertname: add it, or a status if this is an alert",
    ),
    (
        frozenset({"reason", "type"}),
        "kubernetes-event-exporter with a layout: leave `layout` out",
    ),
    (
        frozenset({"reason", "message"}),
        "kubernetes-event-exporter with a layout: leave `layout` out",
    ),
)
"""Keys that all have to be there, and what to change."""


def refuse(members: Mapping[str, bytes]) -> Poison:
    """The error for an object with these members."""
    keys = members.keys()
    shown = ", ".join(sorted(keys)) or "none"
    if len(shown) > _MAX_KEYS:
        shown = shown[:_MAX_KEYS] + "…"
    remedy = next((text for needed, text in _REMEDIES if needed <= keys), None)
    if remedy:
        return Poison(f"{remedy}; the keys are: {shown}")
    accepted = "labels with an alertname, a webhook's alerts, an Event's involvedObject, or a mapping"
    return Poison(f"no known format has these keys: {shown}; expected {accepted}")
