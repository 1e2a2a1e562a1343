"""A series: everything about an alert that its labels decide (fingerprint, route, group, resource), worked out once.

Alerts repeat, so series are kept in a bounded memo by the raw bytes of their labels: a known one costs a look-up.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from app.alert import Incoming, Poison, decode_annotations, decode_labels, resource_of
from app.config import Config
from app.fingerprint import fingerprint
from app.formats import parse
from app.keyed import Body, GroupMeta
from app.routing import Silence, group_labels, route_for
from app.storm import cut_example, group_id

MEMO = 50_000
"""Series kept; beyond it the memo starts anew. About 2 KB each."""


class Series(NamedTuple):
    """Labels, seen through a configuration."""

    labels: dict[str, str]
    fingerprint: str
    silences: tuple[Silence, ...]
    """Silences whose matchers fit; whether one is active depends on the alert's time."""
    body: Body
    """With an empty example: that one depends on the annotations too."""


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
        self._series: dict[tuple[bytes, str | None], Series] = {}
        self._keyed: dict[bytes, Keyed] = {}

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
            known = self._read(alert)
            if len(self._keyed) >= MEMO:
                self._keyed.clear()
            self._keyed[alert.labels] = known
        return known

    def series(self, alert: Incoming) -> Series:
        """What the alert's labels decide; raises `Poison`."""
        key = (alert.labels, alert.fingerprint)
        known = self._series.get(key)
        if known is None:
            known = self._decide(decode_labels(alert.labels), alert.fingerprint)
            if len(self._series) >= MEMO:
                self._series.clear()
            self._series[key] = known
        return known

    def _read(self, alert: Incoming) -> Keyed:
        series = self.series(alert)
        example = cut_example(series.labels, decode_annotations(alert.annotations))
        body = msgspec.structs.replace(series.body, example=example)
        silenced = body
        if series.silences:
            meta = msgspec.structs.replace(msgspec.msgpack.decode(body.meta, type=GroupMeta), silenced=True)
            silenced = msgspec.structs.replace(
                body, group=group_id(meta.route, meta.labels, True), meta=msgspec.msgpack.encode(meta)
            )
        return Keyed(
            key=series.fingerprint.encode(),
            number=int(series.fingerprint, 16),
            body=msgspec.msgpack.encode(body),
            silenced_body=msgspec.msgpack.encode(silenced),
            silences=series.silences,
            annotations=alert.annotations,
            given=alert.fingerprint,
        )

    def _decide(self, labels: dict[str, str], given: str | None) -> Series:
        config = self._config
        route = route_for(labels, config.routes)
        meta = GroupMeta(
            route=route.name,
            labels=group_labels(labels, route),
            namespace=route.namespace,
            silenced=False,
            storm_alerts=route.storm_alerts,
            storm_resources=route.storm_resources,
        )
        rank = self._ranks.get(labels.get(config.severity_label, ""), len(config.severities) - 1)
        resource = resource_of(labels, config.resource_labels)
        identity = given or fingerprint(labels)
        body = Body(
            fingerprint=bytes.fromhex(identity),
            group=group_id(meta.route, meta.labels, False),
            meta=msgspec.msgpack.encode(meta),
            rank=rank,
            severity=config.severities[rank],
            resource=msgspec.msgpack.encode(resource) if resource else b"",
            example=b"",
        )
        silences = tuple(s for s in config.silences if all(m.matches(labels) for m in s.match))
        return Series(labels, identity, silences, body)
