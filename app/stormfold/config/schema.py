"""The configuration file as pydantic models: every key, its type, its default and its meaning."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from stormfold.config.fields import (
    OFF,
    ON,
    Count,
    Duration,
    DurationOrOff,
    DurationOrZero,
    Kind,
    Matchers,
    Namespace,
    RouteName,
    Section,
    Text,
    Texts,
    Time,
    distinct,
    refuse,
    unique,
)
from stormfold.config.mapping_section import MappingSection
from stormfold.config.model import Config, Published
from stormfold.routing import DEFAULT_ROUTE, Matcher, Route, Silence
from stormfold.scope import IncidentRules
from stormfold.times import format_duration, format_timestamp
from stormfold.window import Windows

ALL_LABELS = "..."
"""In `group_by`: every label, so that each label set is a group of its own."""

RESERVED_LABELS = ("alertname", "severity", "stormfold")
"""Labels that cannot distinguish incidents: the announced alert has values of its own for them."""

_DEFAULT = Config()
_RULES = IncidentRules()


class WindowsSection(Section):
    gap: Duration = _DEFAULT.windows.gap
    """Longest time without an alert inside a storm: after it, the storm ends."""
    grace: DurationOrZero = _DEFAULT.windows.grace
    """How far the clocks of producers and workers may disagree; storms close this much later. At most `slice`."""
    slice: Annotated[Duration, Field(validate_default=True)] = _DEFAULT.windows.slice_length
    """A longer storm is cut on the clock at multiples of this, so that its first part is published before it ends. A
    multiple of `gap`, at least twice it."""

    @field_validator("slice")
    @classmethod
    def validate_combination(cls, value: int, info: ValidationInfo) -> int:
        gap, grace = info.data.get("gap"), info.data.get("grace")
        if gap and (value % gap or value < 2 * gap):
            expected = f"a multiple of gap ({format_duration(gap)}), at least twice it"
            refuse(f"expected {expected}, found {format_duration(value)}")
        if grace and grace > value:
            refuse(f"expected at least grace ({format_duration(grace)}), found {format_duration(value)}")
        return value


class StormWhenSection(Section):
    alerts: Count = DEFAULT_ROUTE.storm_alerts
    """Distinct alerts that qualify."""
    resources: Count = DEFAULT_ROUTE.storm_resources
    """Distinct resources of alerts that qualify."""
    severity: Text = DEFAULT_ROUTE.storm_severity
    """An alert qualifies if it fires, is at least this severe, and is new."""
    new_for: DurationOrOff = DEFAULT_ROUTE.new_for
    """An alert is new if it began at most this long before its event time, or if its beginning is unknown; `off`: every
    alert is new. Senders repeat alerts that fire for hours."""


class RouteSection(Section):
    name: RouteName
    """Unique; storms carry it. A route with a new name begins new storms."""
    match: Matchers = ()
    """Conditions that must all hold, in Alertmanager's syntax: one text or a list. Without any, every alert matches."""
    group_by: Texts = DEFAULT_ROUTE.group_by or ()
    """Labels whose values distinguish groups; `['...']` for all labels, `[]` for one group."""
    storm_when: StormWhenSection = StormWhenSection()
    """Either count of qualifying alerts makes a group a storm."""
    namespace: Namespace = DEFAULT_ROUTE.namespace
    """Namespace of the storms' resources."""
    incidents: Literal["on", "off"] = ON if DEFAULT_ROUTE.incidents else OFF
    """`off`: its storms join no incident."""

    @field_validator("group_by")
    @classmethod
    def _all_or_some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if ALL_LABELS in value and len(value) > 1:
            refuse(f"expected {ALL_LABELS!r} alone", value.index(ALL_LABELS))
        return value

    def route(self) -> Route:
        return Route(
            name=self.name,
            match=self.match,
            group_by=None if self.group_by == (ALL_LABELS,) else self.group_by,
            storm_alerts=self.storm_when.alerts,
            storm_resources=self.storm_when.resources,
            storm_severity=self.storm_when.severity,
            new_for=self.storm_when.new_for,
            namespace=self.namespace,
            incidents=self.incidents == ON,
        )


class IncidentsSection(Section):
    by: Annotated[Texts, Field(max_length=16)] = _RULES.by
    """Labels whose values distinguish scopes: only storms with the same values join one incident. Every group is also
    grouped by them. A label that an alert does not have is absent, which is a scope of its own."""
    gap: Duration | None = None
    """A storm joins an incident if its first alert is at most this long after the latest alert of the storms of the
    scope before it. Senders repeat alerts every 1 to 5 minutes, so it is longer than the gap of a storm, which it must
    exceed. If not set: 6m, at least twice the gap of `windows`."""
    max: Duration | None = None
    """A storm that begins this long after the first alert of an incident begins another one, which continues it. If not
    set: 1h, at least `gap`."""
    namespace: Namespace = _RULES.namespace
    """Namespace of the incidents' resources."""
    retention: Duration = _DEFAULT.incident_retention
    """Age at which an incident's resource is deleted, unless it is annotated `stormfold.dev/keep`. Longer than that of
    storms, since there are few of them and people look at them later."""
    max_incidents: Count = _DEFAULT.max_incidents
    """Most resources of incidents in a namespace; the oldest are deleted first."""

    @field_validator("by")
    @classmethod
    def _not_of_one_alert(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for index, name in enumerate(value):
            if name in RESERVED_LABELS:
                refuse(f"expected labels that the alerts of one cause share, found {name!r}", index)
        return value

    def rules(self, windows: WindowsSection) -> IncidentRules:
        gap = self.gap or max(_RULES.gap, 2 * windows.gap)
        return IncidentRules(self.by, gap, self.max or max(_RULES.max_length, gap), self.namespace)


def _section_or_off(value: object) -> object:
    return None if value == OFF else value


class SilenceSection(Section):
    name: Text
    """Unique: the reason for the silence."""
    match: Matchers
    """Conditions that must all hold, at least one."""
    starts: Time | None = None
    """First moment, by the alerts' event time; a time without an offset is UTC. Absent: always."""
    ends: Time | None = None
    """The moment after the last. Absent: forever."""

    @field_validator("match")
    @classmethod
    def _at_least_one(cls, value: tuple[Matcher, ...]) -> tuple[Matcher, ...]:
        return value or refuse("expected at least one matcher: this one would silence every alert")

    @field_validator("ends")
    @classmethod
    def _after_start(cls, value: int | None, info: ValidationInfo) -> int | None:
        starts = info.data.get("starts")
        if value is not None and starts is not None and value <= starts:
            refuse(f"expected a time after starts ({format_timestamp(starts)})")
        return value

    def silence(self) -> Silence:
        return Silence(self.name, self.match, self.starts, self.ends)


class SeveritySection(Section):
    label: Text = _DEFAULT.severity_label
    """Label that holds the severity."""
    order: Annotated[Texts, Field(min_length=1, max_length=256)] = _DEFAULT.severities
    """Values of that label, highest first, compared without case. An unknown value, and an absent label, ranks as
    `warning`, or as the last one if neither the order nor `aliases` has that."""
    aliases: dict[Text, Text] = Field(default={})
    """Other words, and the severity of the order that each means; a word of the order means itself. They come before
    the usual ones: `page`, `fatal`, `p1`, … for critical, `high`, `p2`, … for error, `warn`, `p3`, … for warning,
    `notice`, `low`, … for info."""

    @field_validator("aliases")
    @classmethod
    def _in_order(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        order = [name.lower() for name in info.data.get("order", ())]
        for word, name in value.items():
            if order and name.lower() not in order:
                refuse(f"expected one of {', '.join(order)}, found {name!r}", word)
            if word.lower() in order and word.lower() != name.lower():
                refuse(f"expected a word that is not in the order, found {word!r}", word)
        return value


class LimitsSection(Section):
    max_resources: Annotated[int, Field(ge=1, le=_DEFAULT.max_resources)] = _DEFAULT.max_resources
    """Most resources listed in one storm; their count stays exact. The resource's schema allows no more."""
    max_fingerprints: Count = _DEFAULT.max_fingerprints
    """Most distinct alerts listed in one gap of a group. A storm with more within a gap is `truncated`, and its
    distinct counts are lower bounds."""
    max_groups: Count = _DEFAULT.max_groups
    """Most open groups; alerts of further groups fold into one overflow group per route."""


class ConfigFile(Section):
    windows: WindowsSection = WindowsSection()
    """How alerts become storms in time; the same for all routes."""
    idle_timeout: Duration = _DEFAULT.idle_timeout
    """A partition of alerts without progress for this long, while others progress, no longer holds back the rest."""
    routes: tuple[RouteSection, ...] = ()
    """In order: the first that matches an alert takes it. If the last one has conditions, a route `default` with the
    defaults below follows it."""
    incidents: Annotated[IncidentsSection | None, BeforeValidator(_section_or_off)] = IncidentsSection()
    """Which storms are one incident; `off`: no incidents."""
    silences: tuple[SilenceSection, ...] = ()
    """Alerts that are counted but make no storm: their class is `Silenced`."""
    severity: SeveritySection = SeveritySection()
    """How severe an alert is; a storm has the highest severity of its alerts."""
    default_labels: dict[Text, Text] = Field(default={})
    """Labels of alerts that do not have them, such as `cluster: prod`."""
    resource_labels: dict[Text, Kind] = Field(default=dict(_DEFAULT.resource_labels))
    """Label and the kind of resource that it names; the first label that an alert has counts. Replaces the default as
    a whole."""
    exporters: Texts = _DEFAULT.exporters
    """Scrape jobs, as globs (the last segment of the label `job` counts), whose targets report about other things than
    themselves. Their own `pod`, `container` and `service` do not name the resource of an alert."""
    mappings: tuple[MappingSection, ...] = ()
    """Producers that no built-in format takes, [in JMESPath](mappings.md). In order: the first that matches a record
    reads it. The mappings of the package follow them."""
    limits: LimitsSection = LimitsSection()
    """Limits on memory."""
    publish: Annotated[tuple[Published, ...], AfterValidator(distinct)] = _DEFAULT.publish
    """What becomes a resource: classes of aggregates, `Storm`, `Isolated` and `Silenced`, as AlertStorm, and `Incident`
    as AlertIncident. The topics have all. Of what is not named here, resources of before are not deleted either."""
    retention: Duration = _DEFAULT.retention
    """Age at which a storm's resource is deleted, unless it is annotated `stormfold.dev/keep`."""
    max_storms: Count = _DEFAULT.max_storms
    """Most resources of storms in a namespace; the oldest are deleted first."""

    @model_validator(mode="after")
    def _known_severities(self) -> Self:
        known = {name.lower() for name in self.severity.order} | {DEFAULT_ROUTE.storm_severity}
        for index, route in enumerate(self.routes):
            if (name := route.storm_when.severity).lower() not in known:
                expected = ", ".join(self.severity.order)
                refuse(f"expected one of {expected}, found {name!r}", "routes", index, "storm_when", "severity")
        return self

    @model_validator(mode="after")
    def _longer_than_windows(self) -> Self:
        if self.incidents is not None:
            rules = self.incidents.rules(self.windows)
            if rules.gap <= self.windows.gap:
                expected = f"more than the gap of windows ({format_duration(self.windows.gap)})"
                refuse(f"expected {expected}, found {format_duration(rules.gap)}", "incidents", "gap")
            if rules.max_length < rules.gap:
                expected = f"at least gap ({format_duration(rules.gap)})"
                refuse(f"expected {expected}, found {format_duration(rules.max_length)}", "incidents", "max")
        return self

    @field_validator("routes")
    @classmethod
    def _all_reachable(cls, value: tuple[RouteSection, ...]) -> tuple[RouteSection, ...]:
        unique((route.name for route in value), "name")
        for index, (route, following) in enumerate(pairwise(value), 1):
            if not route.match:
                refuse(f"{following.name!r} is never reached: {route.name!r} before it matches every alert", index)
        if value and value[-1].match:
            for index, route in enumerate(value):
                if route.name == DEFAULT_ROUTE.name:
                    problem = "expected another name: this one is the last route's, which matches every alert"
                    refuse(problem, index, "name")
        return value

    @field_validator("silences")
    @classmethod
    def _unique_names(cls, value: tuple[SilenceSection, ...]) -> tuple[SilenceSection, ...]:
        unique((silence.name for silence in value), "name")
        return value

    @field_validator("mappings")
    @classmethod
    def _unique_mappings(cls, value: tuple[MappingSection, ...]) -> tuple[MappingSection, ...]:
        unique((mapping.name for mapping in value), "name")
        return value

    def config(self) -> Config:
        routes = tuple(section.route() for section in self.routes)
        incidents = self.incidents or IncidentsSection()
        return Config(
            windows=Windows(self.windows.gap, self.windows.grace, self.windows.slice),
            idle_timeout=self.idle_timeout,
            routes=routes if routes and not routes[-1].match else (*routes, DEFAULT_ROUTE),
            incidents=None if self.incidents is None else self.incidents.rules(self.windows),
            silences=tuple(section.silence() for section in self.silences),
            severity_label=self.severity.label,
            severities=self.severity.order,
            severity_aliases=self.severity.aliases,
            default_labels=self.default_labels,
            resource_labels=tuple(self.resource_labels.items()),
            exporters=self.exporters,
            mappings=tuple(section.mapping() for section in self.mappings),
            max_resources=self.limits.max_resources,
            max_fingerprints=self.limits.max_fingerprints,
            max_groups=self.limits.max_groups,
            publish=self.publish,
            retention=self.retention,
            max_storms=self.max_storms,
            incident_retention=incidents.retention,
            max_incidents=incidents.max_incidents,
        )
