"""The configuration as the stages use it. Times are milliseconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from stormfold import severity
from stormfold.formats.mappings import AlertMapping
from stormfold.resource import EXPORTERS, RESOURCE_LABELS
from stormfold.routing import DEFAULT_ROUTE, Route, Silence
from stormfold.scope import IncidentRules
from stormfold.storm import AggregateClass
from stormfold.window import Windows

_WINDOWS = Windows()
INCIDENT: Final = "Incident"
"""In `publish`: incidents become resources."""
Published = Literal[AggregateClass, "Incident"]
"""What can become a resource."""


@dataclass(frozen=True, slots=True)
class Config:
    """The meaning of alerts. `Config()` holds the defaults."""

    windows: Windows = _WINDOWS
    idle_timeout: int = 900_000
    routes: tuple[Route, ...] = (DEFAULT_ROUTE,)
    """In order; the last one matches every alert."""
    incidents: IncidentRules | None = IncidentRules()  # noqa: RUF009 - it cannot be changed
    """How storms join incidents, except those of routes that say otherwise; None: they do not."""
    silences: tuple[Silence, ...] = ()
    severity_label: str = "severity"
    severities: tuple[str, ...] = severity.ORDER
    """Highest first."""
    severity_aliases: Mapping[str, str] = field(default_factory=dict)
    """Other words for severities of the order, in addition to `severity.ALIASES`."""
    default_labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of alerts that do not have them."""
    resource_labels: tuple[tuple[str, str], ...] = RESOURCE_LABELS
    """Label and kind of the resource that it names; the first label that is present counts."""
    exporters: tuple[str, ...] = EXPORTERS
    """Scrape jobs, as globs, whose targets report about other things than themselves."""
    mappings: tuple[AlertMapping, ...] = ()
    """Tried before those of the package."""
    max_resources: int = 1_000
    max_fingerprints: int = 10_000
    max_groups: int = 100_000
    publish: tuple[Published, ...] = ("Storm", INCIDENT)
    """Classes of aggregates, and incidents, that become resources."""
    retention: int = 86_400_000
    max_storms: int = 2_000
    incident_retention: int = 604_800_000
    max_incidents: int = 2_000
