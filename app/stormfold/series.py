"""A series: everything about an alert that follows from its labels (fingerprint, route, group, resource, severity).

Alerts repeat, so keyed alerts are memoized by the raw bytes of their labels: a known one costs one look-up.
"""

from collections.abc import Mapping, Sequence

import msgspec

from stormfold.alert import Alert
from stormfold.config import Config
from stormfold.decoding import Poison, decode_annotations, decode_labels
from stormfold.fingerprint import fingerprint
from stormfold.formats import parse
from stormfold.formats.mappings import Mappings
from stormfold.group import Group, GroupMeta
from stormfold.keyed_record import Body
from stormfold.resource import Resource, find_resource
from stormfold.routing import Matcher, Route, Silence, all_match, group_labels, route_for
from stormfold.scope import ANNOUNCED_LABEL
from stormfold.severity import Severities, Severity
from stormfold.storm import cut_example

MEMO_BYTES = 64 * 1024 * 1024
"""Limit of the memo, some 30,000 series of usual size; beyond it the memo is cleared."""
SERIES_BYTES = 600
"""Size of a series apart from its labels, annotations and body: objects, and entries of two tables."""

FOREVER = 2**63
"""Milliseconds longer than any time."""

ECHO = Silence("incidents that stormfold announced", (Matcher(ANNOUNCED_LABEL[0], "=", ANNOUNCED_LABEL[1]),))
"""An announced incident that comes back as an alert must not become a storm of its own."""

_encode = msgspec.msgpack.Encoder().encode


class Series(msgspec.Struct, frozen=True, gc=False):
    """Labels as a configuration interprets them."""

    fingerprint: str
    silences: tuple[Silence, ...]
    """Silences whose matchers match; whether one is active depends on the alert's time."""
    route: Route
    group: Group
    severity: Severity
    resource: bytes
    """`Resource` in msgpack, or empty."""


class Keyed(msgspec.Struct, frozen=True, gc=False):
    """An alert, ready to be stamped and sent: the key and body of its keyed record."""

    key: bytes
    """The fingerprint as 16 hex digits."""
    number: int
    """The fingerprint as a number; modulo the number of keyed partitions it gives the partition."""
    body: bytes
    silenced_body: bytes
    silences: tuple[Silence, ...]
    annotations: bytes
    """As they came; with the labels they decide everything else, unless the alert brought a fingerprint."""
    given: str | None
    """The fingerprint that the alert brought."""
    about: Resource | None
    """The object that the alert named."""
    series: Series
    severe: bool
    """Whether it is at least as severe as its route requires of a qualifying alert."""
    new_for: int
    """An alert that began more than this long (ms) before its event time does not qualify."""
    certain_for: int
    """One that began at most this long (ms) before it qualifies; -1 if none does, or its severity is unknown."""

    def qualifies(self, starts_at: int | None, time: int) -> bool:
        """Whether an alert that began then qualifies if it fires, at event time `time` (ms)."""
        return self.severe and (starts_at is None or time - starts_at <= self.new_for)

    def body_at(self, time: int) -> bytes:
        """The body for an alert at event time `time` (ms): silenced or not."""
        for silence in self.silences:
            if silence.active(time):
                return self.silenced_body
        return self.body


class SeriesReader:
    """Turns records into keyed alerts under one configuration."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._mappings = Mappings(config.mappings)
        self._severities = Severities(config.severities, config.severity_aliases)
        self._silences = (ECHO, *config.silences)
        self._storm_ranks = {route.name: self._severities[route.storm_severity].rank for route in config.routes}
        """Rank that alerts of a route must have at least to qualify, by its name."""
        self._keyed: dict[bytes, Keyed] = {}
        self._groups: dict[tuple[object, ...], Group] = {}
        self._annotations: dict[bytes, tuple[bytes, Mapping[str, str]]] = {}
        self._held = 0
        """Approximate size of all three, in bytes."""

    def parse(
        self, value: bytes | None, headers: Sequence[tuple[str, bytes]], timestamp: int
    ) -> list[tuple[Keyed, Alert]]:
        """The alerts of a record (its timestamp in ms), keyed and as they came.

        Raises `Poison` for the whole record if any part of it is not understood.
        """
        alerts = parse(value, headers, timestamp, self._mappings)
        if len(alerts) == 1:
            alert = alerts[0]
            return [(self.keyed(alert), alert)]
        result = []
        for index, alert in enumerate(alerts):
            try:
                result.append((self.keyed(alert), alert))
            except Poison as reason:
                raise reason.prefixed(f"[{index}]") from None
        return result

    def keyed(self, alert: Alert) -> Keyed:
        """The keyed form of an alert; raises `Poison` if its labels or annotations are not understood."""
        known = self._keyed.get(alert.labels)
        # Comparing the rest is cheaper than hashing it.
        if (
            known is None
            or known.annotations != alert.annotations
            or known.given != alert.fingerprint
            or known.about != alert.about
        ):
            labels = {**self._config.default_labels, **decode_labels(alert.labels)}
            if known is not None and known.given == alert.fingerprint and known.about == alert.about:
                series = known.series
            else:
                series = self._series(labels, alert)
            known = self._encode(alert, labels, series)
            self._hold(2 * len(alert.labels) + len(known.body) + SERIES_BYTES)
            self._keyed[alert.labels] = known
        return known

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > MEMO_BYTES:
            for memo in (self._keyed, self._groups, self._annotations):
                memo.clear()
            self._held = size

    def _encode(self, alert: Alert, labels: dict[str, str], series: Series) -> Keyed:
        raw, annotations = self._annotations_of(alert)
        example = cut_example(labels, annotations)
        body = silenced = _body(series, series.group, example)
        if series.silences:
            silenced = _body(series, self._group(series.route, labels, True), example)
        severe = series.severity.rank <= self._storm_ranks[series.route.name]
        new_for = FOREVER if series.route.new_for is None else series.route.new_for
        return Keyed(
            key=series.fingerprint.encode(),
            number=int(series.fingerprint, 16),
            body=body,
            silenced_body=silenced,
            silences=series.silences,
            annotations=raw,
            given=alert.fingerprint,
            about=alert.about,
            series=series,
            severe=severe,
            new_for=new_for,
            certain_for=new_for if severe and series.severity.known else -1,
        )

    def _annotations_of(self, alert: Alert) -> tuple[bytes, Mapping[str, str]]:
        """The annotations as they came and decoded; equal ones share one object."""
        known = self._annotations.get(alert.annotations)
        if known is None:
            known = alert.annotations, decode_annotations(alert.annotations)
            self._hold(3 * len(alert.annotations) + SERIES_BYTES)
            self._annotations[alert.annotations] = known
        return known

    def _series(self, labels: dict[str, str], alert: Alert) -> Series:
        config = self._config
        route = route_for(labels, config.routes)
        resource = alert.about or find_resource(labels, config.resource_labels, config.exporters)
        return Series(
            fingerprint=alert.fingerprint or fingerprint(labels),
            silences=tuple([silence for silence in self._silences if all_match(silence.match, labels)]),
            route=route,
            group=self._group(route, labels, False),
            severity=self._severities[labels.get(config.severity_label, "")],
            resource=_encode(resource) if resource else b"",
        )

    def _group(self, route: Route, labels: Mapping[str, str], silenced: bool) -> Group:
        rules = self._config.incidents if route.incidents else None
        scope = rules.by if rules else ()
        # All that the group's labels depend on; to select those costs more.
        given = labels.items() if route.group_by is None else map(labels.get, (*route.group_by, *scope))
        key = (route.name, silenced, *given)
        known = self._groups.get(key)
        if known is None:
            known = Group.of(
                GroupMeta(
                    route=route.name,
                    labels=group_labels(labels, route, scope),
                    namespace=route.namespace,
                    silenced=silenced,
                    storm_alerts=route.storm_alerts,
                    storm_resources=route.storm_resources,
                    incident=rules,
                )
            )
            self._hold(3 * len(known.meta) + SERIES_BYTES)
            self._groups[key] = known
        return known


def _body(series: Series, group: Group, example: bytes) -> bytes:
    body = Body(
        fingerprint=bytes.fromhex(series.fingerprint),
        group=group.id,
        meta=group.meta,
        rank=series.severity.rank,
        severity=series.severity.name,
        resource=series.resource,
        example=example,
    )
    return _encode(body)
