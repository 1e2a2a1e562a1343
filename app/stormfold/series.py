"""A series: everything about an alert that its labels decide (fingerprint, route, group, resource), worked out once.

Alerts repeat, so series are kept in a bounded memo by the raw bytes of their labels: a known one costs a look-up.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from stormfold.alert import Incoming, Poison, decode_annotations, decode_labels, resource_of
from stormfold.config import Config
from stormfold.fingerprint import fingerprint
from stormfold.formats import parse
from stormfold.keyed_record import Body, GroupMeta
from stormfold.routing import Route, Silence, all_match, group_labels, route_for
from stormfold.storm import cut_example, group_id

MEMO_BYTES = 64 * 1024 * 1024
"""What the memo of series may hold, some 30,000 usual ones; beyond it the memo starts anew."""
SERIES_BYTES = 600
"""What a series takes beyond its labels, annotations and body: objects, and places in two tables."""

_encode = msgspec.msgpack.Encoder().encode


class Group(NamedTuple):
    """A group, as each alert of it says it."""

    id: str
    """`storm.group_id`."""
    meta: bytes
    """`GroupMeta` in msgpack."""


class Series(NamedTuple):
    """Labels, seen through a configuration."""

    fingerprint: str
    silences: tuple[Silence, ...]
    """Silences whose matchers fit; whether one is active depends on the alert's time."""
    route: Route
    group: Group
    rank: int
    severity: str
    resource: bytes
    """`Resource` in msgpack, or empty."""


class Keyed(NamedTuple):
    """An alert, ready to be stamped and sent: the key and body of its keyed record."""

    key: bytes
    """The fingerprint as 16 hex digits."""
    number: int
    """The fingerprint as a number; modulo the number of keyed partitions it chooses one."""
    body: bytes
    silenced_body: bytes
    silences: tuple[Silence, ...]
    annotations: bytes
    """As they came; with the labels they decide the rest, unless a fingerprint came too."""
    given: str | None
    """The fingerprint that came."""
    series: Series

    def body_at(self, time: int) -> bytes:
        """The body for an alert at event time `time` (ms): silenced or not."""
        for silence in self.silences:
            if silence.active(time):
                return self.silenced_body
        return self.body


class SeriesReader:
    """Turns incoming alerts into keyed ones under one configuration."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._ranks = {severity: rank for rank, severity in enumerate(config.severities)}
        self._keyed: dict[bytes, Keyed] = {}
        self._groups: dict[tuple[object, ...], Group] = {}
        self._annotations: dict[bytes, tuple[bytes, Mapping[str, str]]] = {}
        self._held = 0
        """Bytes in all three, about."""

    def understand(
        self, value: bytes | None, headers: Sequence[tuple[str, bytes]], timestamp: int
    ) -> list[tuple[Keyed, bool]]:
        """The alerts of a record (its timestamp in ms), keyed, and whether each is resolved.

        Raises `Poison`: a record is understood whole or dead whole.
        """
        alerts = parse(value, headers, timestamp)
        if len(alerts) == 1:
            alert = alerts[0]
            return [(self.keyed(alert), alert.resolved)]
        result = []
        for index, alert in enumerate(alerts):
            try:
                result.append((self.keyed(alert), alert.resolved))
            except Poison as reason:
                raise reason.inside(f"[{index}]") from None
        return result

    def keyed(self, alert: Incoming) -> Keyed:
        """The keyed form of an alert; raises `Poison` if its labels or annotations are not understood."""
        known = self._keyed.get(alert.labels)
        # To compare the rest is cheaper than to hash it.
        if known is None or known.annotations != alert.annotations or known.given != alert.fingerprint:
            labels = decode_labels(alert.labels)
            if known is not None and known.given == alert.fingerprint:
                series = known.series
            else:
                series = self._decide(labels, alert.fingerprint)
            known = self._read(alert, labels, series)
            self._hold(2 * len(alert.labels) + len(known.body) + SERIES_BYTES)
            self._keyed[alert.labels] = known
        return known

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > MEMO_BYTES:
            for memo in (self._keyed, self._groups, self._annotations):
                memo.clear()
            self._held = size

    def _read(self, alert: Incoming, labels: dict[str, str], series: Series) -> Keyed:
        raw, annotations = self._annotations_of(alert)
        example = cut_example(labels, annotations)
        body = silenced = _body(series, series.group, example)
        if series.silences:
            silenced = _body(series, self._group(series.route, labels, True), example)
        return Keyed(
            key=series.fingerprint.encode(),
            number=int(series.fingerprint, 16),
            body=body,
            silenced_body=silenced,
            silences=series.silences,
            annotations=raw,
            given=alert.fingerprint,
            series=series,
        )

    def _annotations_of(self, alert: Incoming) -> tuple[bytes, Mapping[str, str]]:
        """As they came, one object for all that are the same, and decoded."""
        known = self._annotations.get(alert.annotations)
        if known is None:
            known = alert.annotations, decode_annotations(alert.annotations)
            self._hold(3 * len(alert.annotations) + SERIES_BYTES)
            self._annotations[alert.annotations] = known
        return known

    def _decide(self, labels: dict[str, str], given: str | None) -> Series:
        config = self._config
        route = route_for(labels, config.routes)
        rank = self._ranks.get(labels.get(config.severity_label, ""), len(config.severities) - 1)
        resource = resource_of(labels, config.resource_labels)
        return Series(
            fingerprint=given or fingerprint(labels),
            silences=tuple(s for s in config.silences if all_match(s.match, labels)),
            route=route,
            group=self._group(route, labels, False),
            rank=rank,
            severity=config.severities[rank],
            resource=_encode(resource) if resource else b"",
        )

    def _group(self, route: Route, labels: Mapping[str, str], silenced: bool) -> Group:
        shared = group_labels(labels, route)
        key = (route.name, silenced, *shared.items())
        known = self._groups.get(key)
        if known is None:
            meta = GroupMeta(
                route=route.name,
                labels=shared,
                namespace=route.namespace,
                silenced=silenced,
                storm_alerts=route.storm_alerts,
                storm_resources=route.storm_resources,
            )
            known = Group(group_id(route.name, shared, silenced), _encode(meta))
            self._hold(3 * len(known.meta) + SERIES_BYTES)
            self._groups[key] = known
        return known


def _body(series: Series, group: Group, example: bytes) -> bytes:
    body = Body(
        fingerprint=bytes.fromhex(series.fingerprint),
        group=group.id,
        meta=group.meta,
        rank=series.rank,
        severity=series.severity,
        resource=series.resource,
        example=example,
    )
    return _encode(body)
