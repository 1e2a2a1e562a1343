"""Which storms can join one incident: the rules that intake decides for a group, and the scope that a storm carries.

Both travel with the alerts, in the group's meta data and in the storm's annotation, so workers with different
configurations form the same incidents.
"""

import msgspec

ANNOUNCED_LABEL = ("stormfold", "incident")
"""Label of the alerts that announce incidents. Alerts with it are silenced: they come back through Alertmanager."""

ScopeKey = tuple[tuple[str, str], ...]
"""Identity of a scope: the names and values of its labels, by name."""


class IncidentRules(msgspec.Struct, frozen=True, array_like=True):
    """How storms of a group join incidents, as intake decided. Times are milliseconds."""

    by: tuple[str, ...] = ("cluster",)
    """Labels whose values distinguish scopes. They are part of the group's labels; an absent one is absent, too."""
    gap: int = 360_000
    """A storm joins if it begins at most this long after the latest alert of the scope's storms before it, …"""
    max_length: int = 3_600_000
    """… and less than this long after the first alert of the incident."""
    namespace: str = "storms"
    """Namespace of the incidents' resources."""


class IncidentScope(msgspec.Struct, frozen=True, kw_only=True):
    """The scope of an aggregate or incident, with the rules that hold for an incident that it begins (times in ms)."""

    labels: dict[str, str]
    """Names and values of the labels that distinguish scopes, without absent ones. Equal labels are one scope."""
    gap: int
    max_length: int = msgspec.field(name="max")
    namespace: str
    window_gap: int = msgspec.field(name="windowGap")
    """The gap of the windows under which the aggregate was closed."""
    rank: int
    """Place of its severity in the configured order, 0 the highest."""

    @property
    def key(self) -> ScopeKey:
        """Identity of the scope."""
        return tuple(sorted(self.labels.items()))
