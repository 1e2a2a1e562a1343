"""Compares aggregates with the expected ones, in the topic `storms` and in sinks."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import msgspec

from stormfold.config import Config
from stormfold.group import GroupMeta, pattern
from stormfold.manifest import from_manifest
from stormfold.storm import Aggregate
from tests.chaos.expected import Counted, expected_aggregates

Spans = Sequence[tuple[int, int]]
"""Spans of event time (ms): first and last."""
Versions = Mapping[str, Sequence[Aggregate]]
"""The different aggregates that were published under each name, the newest last."""


class Wrong(NamedTuple):
    """An error."""

    what: str
    begin: int
    """Time (ms) of the first affected alert; `end` is that of the last."""
    end: int
    lost: int = 0
    """Alerts that are missing; `double` is the number of alerts counted twice."""
    double: int = 0
    incidents: int = 0
    """Incidents that are missing, different or too many."""


@dataclass
class Excused:
    """How much was not compared, because faults decide it."""

    alerts: int = 0
    """Alerts with another event time than their timestamp: they arrived late, or behind one from the future."""
    early: int = 0
    """Alerts of groups of which only the number of alerts was compared, around the time that a partition was added."""
    truncated: int = 0
    """Aggregates with less detail than expected, from a time when Redis was full."""


def compare_sink(sink: str, wanted: Versions, found: Mapping[str, dict[str, Any]]) -> Iterator[Wrong]:
    """Yields an error for each storm that is missing, different, or not published."""
    for name in wanted.keys() | found.keys():
        if name not in wanted:
            yield now(f"{name} is in {sink}, but was not published")
        elif name not in found:
            yield about(wanted[name][-1], f"is not in {sink}", lost=wanted[name][-1].alert_count)
        elif (there := from_manifest(found[name])) not in wanted[name]:
            yield about(wanted[name][-1], f"differs in {sink}: {differences(there, wanted[name][-1])}")


class Early:
    """The times at which alerts of each pattern were sent to a partition that was not read yet.

    The horizon did not wait for them, so their aggregate is not determined: only their number is compared.
    """

    def __init__(self, margin: int) -> None:
        self._margin = margin
        self._spans: defaultdict[str, dict[int, int]] = defaultdict(dict)

    def add(self, name: str, sent: int, known: int) -> None:
        """Adds one alert, and the time from which on its partition was read."""
        self._spans[name][known] = min(sent, self._spans[name].get(known, sent))

    def touches(self, name: str, first: int, last: int) -> bool:
        """Returns whether an aggregate of these times may differ from the one that the log decides."""
        return any(
            sent - self._margin <= last and first <= known + self._margin
            for known, sent in self._spans.get(name, {}).items()
        )

    def __contains__(self, name: str) -> bool:
        return name in self._spans


@cache
def _named(meta: bytes) -> str:
    return pattern(msgspec.msgpack.decode(meta, type=GroupMeta).labels)


def pattern_of(one: Counted) -> str:
    return _named(one.body.meta)


def compare_log(
    config: Config, counted: Iterable[Counted], published: Versions, early: Early, full: Spans, excused: Excused
) -> Iterator[Wrong]:
    """Yields an error for each published aggregate that differs from the expected one; in `full` spans less detail is
    allowed.

    Adds to `excused`.
    """
    by_pattern: defaultdict[str, list[Counted]] = defaultdict(list)
    for one in counted:
        by_pattern[name if (name := pattern_of(one)) in early else ""].append(one)
    expected, wanted, found = {}, Counter[str](), Counter[str]()
    for name, some in by_pattern.items():
        for aggregate_name, aggregate in expected_aggregates(config, some).items():
            if early.touches(name, aggregate.first_seen, aggregate.last_seen):
                wanted[name] += aggregate.alert_count
            else:
                expected[aggregate_name] = aggregate
    firm = {}
    for aggregate_name, versions in published.items():
        newest = versions[-1]
        if early.touches(newest.pattern, newest.first_seen, newest.last_seen):
            found[newest.pattern] += newest.alert_count
        else:
            firm[aggregate_name] = versions
    excused.early += wanted.total()
    for aggregate_name in expected.keys() | firm.keys():
        yield from _compare(aggregate_name, expected.get(aggregate_name), firm.get(aggregate_name, ()), full, excused)
    for name in wanted.keys() | found.keys():
        if missing := wanted[name] - found[name]:
            yield now(f"{name} has {found[name]} of {wanted[name]} alerts", max(0, missing), max(0, -missing))


def _compare(
    name: str, expected: Aggregate | None, versions: Sequence[Aggregate], full: Spans, excused: Excused
) -> Iterator[Wrong]:
    if not versions:
        assert expected is not None
        yield Wrong(f"{name} is missing", expected.first_seen, expected.last_seen, lost=expected.alert_count)
    elif expected is None:
        yield about(versions[-1], "should not exist", double=versions[-1].alert_count)
    else:
        for found in versions:
            if found.alert_count != expected.alert_count:
                missing = expected.alert_count - found.alert_count
                what = f"should have {expected.alert_count} alerts"
                yield about(found, what, max(0, missing), max(0, -missing))
            elif found != expected:
                if touches(full, expected) and _cut_short(found, expected):
                    excused.truncated += 1
                else:
                    yield about(found, f"differs: {differences(found, expected)}")


def touches(spans: Spans, aggregate: Aggregate) -> bool:
    return any(aggregate.first_seen <= end and begin <= aggregate.last_seen for begin, end in spans)


def _cut_short(found: Aggregate, expected: Aggregate) -> bool:
    """Returns whether it is the expected aggregate without the detail of some fingerprints.

    Lists and distinct counts are lower bounds then, and fingerprints that are not listed count as firing.
    """
    alerts = {entry.resource: entry.alerts for entry in expected.resources}
    # A resource that is not listed has no more alerts than the last one that is.
    unlisted = expected.resources[-1].alerts if expected.truncated and expected.resources else 0
    same = msgspec.structs.replace(
        found, distinct=expected.distinct, resolved=expected.resolved, resource_count=expected.resource_count,
        resources=expected.resources, aggregate_class=expected.aggregate_class, truncated=expected.truncated,
    )  # fmt: skip
    return (
        found.truncated
        and same == expected
        and found.aggregate_class in (expected.aggregate_class, "Storm")
        and found.distinct <= expected.distinct
        and found.resource_count <= expected.resource_count
        and all(entry.alerts <= alerts.get(entry.resource, unlisted) for entry in found.resources)
    )


def differences(actual: Aggregate, expected: Aggregate) -> str:
    found = []
    for name in Aggregate.__struct_fields__:
        one, other = getattr(actual, name), getattr(expected, name)
        if name == "resources":
            one, other = ([e for e in mine if e not in others][:5] for mine, others in ((one, other), (other, one)))
        if one != other:
            found.append(f"{name} is {one}, should be {other}")
    return "; ".join(found) or "the order of its resources"


def about(aggregate: Aggregate, what: str, lost: int = 0, double: int = 0) -> Wrong:
    text = f"{aggregate.name} ({aggregate.alert_count} alerts) {what}"
    return Wrong(text, aggregate.first_seen, aggregate.last_seen, lost, double)


def now(what: str, lost: int = 0, double: int = 0) -> Wrong:
    """Returns an error of the present time."""
    moment = time.time_ns() // 1_000_000
    return Wrong(what, moment, moment, lost, double)
