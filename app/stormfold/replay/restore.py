"""Restore publishes the aggregates of a range that are missing in `storms`, under their original names."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import IO

from stormfold.config import Config
from stormfold.in_memory import InMemoryFold
from stormfold.kafka.producer import Producer, ProducerRecord
from stormfold.kafka.reader import open_reader
from stormfold.manifest import encode_manifest
from stormfold.replay.late import count_late
from stormfold.replay.log import fold, read_keyed
from stormfold.replay.range import OnProgress, Span, open_range
from stormfold.replay.summary import Summary, read_published
from stormfold.settings import Settings

BATCH_SIZE = 500
"""Aggregates that are published together."""
MAX_MEMORY = 64 * 1024 * 1024
"""Bytes of missing aggregates that wait in memory until all are compared; more wait in a temporary file."""


@dataclass(frozen=True, slots=True)
class Difference:
    """An aggregate that was published with another content than the log gives."""

    name: str
    published: int
    """Alerts that it counts in `storms`."""
    replayed: int
    """Alerts that it counts according to the log."""


@dataclass(slots=True)
class Restored:
    """The result for a range."""

    span: Span
    """The part that could be replayed."""
    windows_since: int | None = None
    """Alerts before it were counted under other windows (ms)."""
    alerts: int = 0
    """Alerts read of the range and around it."""
    same: int = 0
    """Aggregates that are in `storms` as the log gives them."""
    published: list[str] = field(default_factory=list)
    """Names of aggregates that were missing and are now published."""
    late: int = 0
    """Published storms that join no incident: that of their time is published, and does not change."""
    differs: list[Difference] = field(default_factory=list)
    """Aggregates that differ from the log. They stay as they are."""
    unexplained: list[str] = field(default_factory=list)
    """Aggregates in `storms` that the log does not give, such as those of an overflow group."""
    ambiguous: list[str] = field(default_factory=list)
    """Aggregates that are still missing: others of their group differ, and may count the same alerts."""

    @property
    def complete(self) -> bool:
        """Whether every aggregate of the range is in `storms` as the log gives it."""
        return not (self.differs or self.unexplained or self.ambiguous)


async def restore(settings: Settings, config: Config, wanted: Span, on_progress: OnProgress) -> Restored:
    """Publishes missing aggregates; existing ones stay as they are. Raises `Retry` or `ActionRequired`."""
    async with open_reader(settings) as reader:
        replayed = await open_range(settings, config, wanted, reader, on_progress, as_counted=True)
        since = replayed.windows_since
        # Aggregates that ended before `windows_since` have none of the alerts that are counted here.
        published = await read_published(replayed)
        published = {
            name: summary for name, summary in published.items() if summary.aggregate.last_seen >= (since or 0)
        }
        in_memory = InMemoryFold(
            replayed.config.windows, replayed.rebuild, config.max_fingerprints, config.max_resources, since
        )
        result = Restored(replayed.span, since)
        confirmed: set[str] = set()
        missing: list[tuple[Summary, int]] = []
        with SpooledTemporaryFile(MAX_MEMORY) as values:
            async for aggregate in fold(replayed, in_memory, read_keyed(replayed)):
                value = encode_manifest(aggregate)
                summary = Summary.of(aggregate, value)
                existing = published.get(aggregate.name)
                if existing is not None and existing.matches(summary):
                    confirmed.add(aggregate.name)
                elif replayed.contains(aggregate.first_seen) and existing is not None:
                    count = existing.aggregate.alert_count
                    result.differs.append(Difference(aggregate.name, count, aggregate.alert_count))
                elif replayed.contains(aggregate.first_seen):
                    values.write(value)
                    missing.append((summary, len(value)))
            inside = {name for name, summary in published.items() if replayed.contains(summary.aggregate.first_seen)}
            doubtful_groups = {summary.group for name, summary in published.items() if name not in confirmed}
            result.alerts = in_memory.alerts
            result.same = len(inside & confirmed)
            result.unexplained = sorted(inside - confirmed - {difference.name for difference in result.differs})
            result.ambiguous = [s.aggregate.name for s, _ in missing if doubtful_groups & {s.group, s.overflow_group}]
            values.seek(0)
            result.published = await _publish(settings, missing, values, set(result.ambiguous))
        published_now = set(result.published)
        restored = [summary.aggregate for summary, _ in missing if summary.aggregate.name in published_now]
        result.late = await count_late(settings, reader, restored)
    return result


async def _publish(
    settings: Settings, missing: Sequence[tuple[Summary, int]], values: IO[bytes], excluded: set[str]
) -> list[str]:
    """Publishes the missing aggregates, whose record values follow each other in `values`. Returns their names."""
    producer = Producer(settings, "replay")
    done: list[str] = []
    try:
        for start in range(0, len(missing), BATCH_SIZE):
            batch = [
                (summary.aggregate.name, values.read(size)) for summary, size in missing[start : start + BATCH_SIZE]
            ]
            records = {name: ProducerRecord(name.encode(), value) for name, value in batch if name not in excluded}
            await producer.send_by_key(settings.storms_topic, list(records.values()))
            done += records
    finally:
        await producer.stop()
    return done
