"""Restore: publishes the storms of a range that are missing in `storms`, under the names that they had."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import IO

from stormfold.config import Config
from stormfold.in_memory import InMemoryFold
from stormfold.kafka.producer import Producer, ProducerRecord
from stormfold.kafka.reader import open_reader
from stormfold.manifest import encode_manifest
from stormfold.replay.log import Span, Tell, keyed, open_range, storms
from stormfold.replay.summary import StormSummary, published
from stormfold.settings import Settings

AT_ONCE = 500
"""Storms that are published together."""
IN_MEMORY = 64 * 1024 * 1024
"""Bytes of missing storms that wait in memory until all is compared; more wait in a temporary file."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A storm that the log gives otherwise than it was published."""

    name: str
    published: int
    """Alerts that it counts in `storms`."""
    replayed: int
    """Alerts that the log gives it."""


@dataclass(slots=True)
class Restored:
    """What became of a range."""

    span: Span
    """As far as it could be replayed."""
    since: int | None = None
    """S: what is before it was counted under other windows (ms)."""
    alerts: int = 0
    """Read of the range and of what is around it."""
    same: int = 0
    """Storms that are there as the log gives them."""
    published: list[str] = field(default_factory=list)
    """Names of those that were missing, and no longer are."""
    differs: list[Difference] = field(default_factory=list)
    """Those that stay as they were published."""
    unexplained: list[str] = field(default_factory=list)
    """Those that are there although the log does not give them, such as those of an overflow group."""
    doubtful: list[str] = field(default_factory=list)
    """Those that are missing still: storms of their group are there otherwise, and may count the same alerts."""

    @property
    def well(self) -> bool:
        """Whether all of the range is there, and as the log gives it."""
        return not (self.differs or self.unexplained or self.doubtful)


async def restore(settings: Settings, config: Config, wanted: Span, tell: Tell) -> Restored:
    """Publishes what is missing; what is there stays as it is. Raises `Retry` or `ActionRequired`."""
    async with open_reader(settings) as tail:
        of = await open_range(settings, config, wanted, tail, tell, as_counted=True)
        # What ended before S is of other windows and has none of the alerts that are counted here.
        there = {name: brief for name, brief in (await published(of)).items() if brief.last >= (of.since or 0)}
        refold = InMemoryFold(of.config.windows, of.rebuild, config.max_fingerprints, config.max_resources, of.since)
        result = Restored(of.span, of.since)
        proven: set[str] = set()
        missing: list[tuple[StormSummary, int]] = []
        with SpooledTemporaryFile(IN_MEMORY) as kept:
            async for storm in storms(of, refold, keyed(of)):
                value = encode_manifest(storm)
                brief = StormSummary.of(storm, value)
                known = there.get(storm.name)
                if known is not None and known.says(brief):
                    proven.add(storm.name)
                elif of.holds(storm.first_seen):
                    if known is not None:
                        result.differs.append(Difference(storm.name, known.alerts, storm.alert_count))
                    else:
                        kept.write(value)
                        missing.append((brief, len(value)))
            inside = {name for name, brief in there.items() if of.holds(brief.first)}
            doubted = {brief.group for name, brief in there.items() if name not in proven}
            result.alerts = refold.alerts
            result.same = len(inside & proven)
            result.unexplained = sorted(inside - proven - {difference.name for difference in result.differs})
            result.doubtful = [b.name for b, _ in missing if doubted & {b.group, b.overflow}]
            kept.seek(0)
            result.published = await _publish(settings, missing, kept, set(result.doubtful))
    return result


async def _publish(
    settings: Settings, missing: Sequence[tuple[StormSummary, int]], kept: IO[bytes], doubtful: set[str]
) -> list[str]:
    """Publishes the missing storms, whose values are in `kept`, without the doubtful ones; returns the names."""
    producer = Producer(settings, "replay")
    done: list[str] = []
    try:
        for at in range(0, len(missing), AT_ONCE):
            values = [(brief.name, kept.read(size)) for brief, size in missing[at : at + AT_ONCE]]
            batch = {name: value for name, value in values if name not in doubtful}
            await producer.send_by_key(
                settings.storms_topic, [ProducerRecord(name.encode(), value) for name, value in batch.items()]
            )
            done += batch
    finally:
        await producer.stop()
    return done
