"""The storms of the demo's incident, computed from its records alone."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from stormfold.alert import Alert
from stormfold.config import loads
from stormfold.group import GroupMeta, pattern
from stormfold.keyed_record import Body
from stormfold.local.demo import CONFIG
from stormfold.local.incident import IncidentRecord
from stormfold.series import Keyed, SeriesReader
from stormfold.storm import AggregateClass, classify


class Group(NamedTuple):
    """All alerts of one group, which becomes one aggregate."""

    aggregate_class: AggregateClass
    alerts: int
    distinct: int
    resolved: int
    resources: int
    times: Sequence[float]
    """Seconds after the start, ascending."""


def expected(records: Sequence[IncidentRecord]) -> dict[str, Group]:
    """Groups by pattern, under the demo's configuration."""
    reader = SeriesReader(loads(CONFIG, "demo"))
    found: defaultdict[bytes, list[tuple[float, Body, Keyed, Alert]]] = defaultdict(list)
    for record in records:
        for keyed, alert in reader.parse(record.value, record.headers, 0) if record.alerts else []:
            body = msgspec.msgpack.decode(keyed.body_at(0), type=Body)
            found[body.meta].append((record.at, body, keyed, alert))
    return {pattern(meta.labels): _group(meta, alerts) for meta, alerts in ((_meta(m), a) for m, a in found.items())}


def _group(meta: GroupMeta, alerts: Sequence[tuple[float, Body, Keyed, Alert]]) -> Group:
    newest = {body.fingerprint: alert.resolved for _, body, _, alert in alerts}
    # No alert of the incident repeats for so long that it is not new.
    firing = [body for _, body, keyed, alert in alerts if keyed.severe and not alert.resolved]
    return Group(
        aggregate_class=classify(
            meta, len({body.fingerprint for body in firing}), len({b.resource for b in firing} - {b""})
        ),
        alerts=len(alerts),
        distinct=len(newest),
        resolved=sum(newest.values()),
        resources=len({body.resource for _, body, _, _ in alerts} - {b""}),
        times=[at for at, *_ in alerts],
    )


def _meta(packed: bytes) -> GroupMeta:
    return msgspec.msgpack.decode(packed, type=GroupMeta)
