"""What replay keeps of each published aggregate."""

import hashlib
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from stormfold.decoding import Malformed
from stormfold.group import OVERFLOW_LABEL
from stormfold.manifest import decode_manifest
from stormfold.replay.range import Range
from stormfold.storm import Aggregate, Example

Group = tuple[str, tuple[tuple[str, str], ...], bool]
"""Route, group labels, and whether the group is silenced."""


@dataclass(frozen=True, slots=True)
class Summary:
    """An aggregate without its resources and example, and a digest of its record in `storms`."""

    aggregate: Aggregate
    digest: bytes

    @classmethod
    def of(cls, aggregate: Aggregate, value: bytes) -> "Summary":
        """`value` is the record's value."""
        return cls(without_details(aggregate), hashlib.blake2b(value, digest_size=16).digest())

    @property
    def group(self) -> Group:
        """The group of the aggregate."""
        labels = tuple(sorted(self.aggregate.group_labels.items()))
        return (self.aggregate.route, labels, self.aggregate.aggregate_class == "Silenced")

    @property
    def overflow_group(self) -> Group:
        """The group that took its alerts if too many groups were open."""
        return (self.aggregate.route, ((OVERFLOW_LABEL, "true"),), self.aggregate.aggregate_class == "Silenced")

    def matches(self, other: "Summary") -> bool:
        """Whether both are the same. What a truncated aggregate lists depends on more than the log."""
        ours, theirs = self.aggregate, other.aggregate
        return self.digest == other.digest or (
            ours.truncated
            and (ours.alert_count, ours.first_seen, ours.last_seen)
            == (theirs.alert_count, theirs.first_seen, theirs.last_seen)
        )


def without_details(aggregate: Aggregate) -> Aggregate:
    """The aggregate without its resources and example, which need most of the memory."""
    return msgspec.structs.replace(aggregate, resources=(), example=Example())


async def read_published(wanted: Range) -> dict[str, Summary]:
    """The aggregates in `storms` that have alerts in the range, the newest record of each name."""
    topic, found = wanted.settings.storms_topic, {}
    starts = await wanted.reader.offsets_for_time(topic, wanted.span.begin - wanted.config.windows.grace)
    async with aclosing(wanted.reader.read_batches(topic, starts, await wanted.reader.end_offsets(topic))) as polls:
        async for records in polls:
            for record in records:
                try:
                    aggregate = decode_manifest(record.value)
                except Malformed:
                    # stormfold did not write it.
                    continue
                if aggregate.last_seen >= wanted.span.begin and aggregate.first_seen < wanted.span.end:
                    found[aggregate.name] = Summary.of(aggregate, record.value)
    return found
