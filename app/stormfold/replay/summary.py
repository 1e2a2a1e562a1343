"""A storm in brief: what replay keeps of each one that was published."""

import hashlib
from contextlib import aclosing
from typing import NamedTuple

from stormfold.decoding import Malformed
from stormfold.group import OVERFLOW_LABEL
from stormfold.manifest import decode_manifest
from stormfold.replay.log import Range
from stormfold.storm import Aggregate

Group = tuple[str, tuple[tuple[str, str], ...], bool]
"""Route, group labels, whether silenced: as a storm shows them."""


class StormSummary(NamedTuple):
    """A storm, without its resources."""

    name: str
    group: Group
    storm_class: str
    alerts: int
    resources: int
    pattern: str
    first: int
    last: int
    truncated: bool
    digest: bytes
    """Of the record's value."""

    @classmethod
    def of(cls, storm: Aggregate, value: bytes) -> "StormSummary":
        """`value` is the storm's record in `storms`."""
        group = (storm.route, tuple(sorted(storm.group_labels.items())), storm.aggregate_class == "Silenced")
        return cls(
            storm.name, group, storm.aggregate_class, storm.alert_count, storm.resource_count, storm.pattern,
            storm.first_seen, storm.last_seen, storm.truncated, hashlib.blake2b(value, digest_size=16).digest(),
        )  # fmt: skip

    @property
    def route(self) -> str:
        """Of the group."""
        return self.group[0]

    @property
    def overflow(self) -> Group:
        """The group that had taken its alerts if too many were open."""
        return (self.route, ((OVERFLOW_LABEL, "true"),), self.group[2])

    def says(self, other: "StormSummary") -> bool:
        """Whether `other` is the same storm. What a truncated one lists depends on more than the log."""
        return self.digest == other.digest or (
            self.truncated and (self.alerts, self.first, self.last) == (other.alerts, other.first, other.last)
        )


async def published(of: Range) -> dict[str, StormSummary]:
    """The storms in `storms` that have alerts in the range, the newest record of each name."""
    topic, found = of.settings.storms_topic, {}
    starts = await of.tail.since(topic, of.span.begin - of.config.windows.grace)
    async with aclosing(of.tail.polls(topic, starts, await of.tail.ends(topic))) as polls:
        async for records in polls:
            for record in records:
                try:
                    storm = decode_manifest(record.value)
                except Malformed:
                    # Nobody of ours wrote it.
                    continue
                if storm.last_seen >= of.span.begin and storm.first_seen < of.span.end:
                    found[storm.name] = StormSummary.of(storm, record.value)
    return found
