"""Compare shows what another configuration makes of a range, next to what was published. It publishes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from stormfold.config import Config
from stormfold.correlation import incidents_of
from stormfold.in_memory import InMemoryFold
from stormfold.incident import Incident
from stormfold.kafka.reader import open_reader
from stormfold.replay.log import fold, read_event_times, read_parsed
from stormfold.replay.range import OnProgress, Span, open_range
from stormfold.replay.summary import read_published, without_details
from stormfold.settings import Settings
from stormfold.storm import Aggregate


@dataclass(frozen=True, slots=True)
class Compared:
    """Two results for one range."""

    span: Span
    """The part that could be replayed."""
    replayed: Sequence[Aggregate]
    """Aggregates under the configuration, without resources and examples."""
    published: Sequence[Aggregate]
    """Aggregates in `storms`, without resources and examples."""
    incidents: Sequence[Incident]
    """Incidents of the replayed aggregates, without resources."""
    incidents_published: Sequence[Incident]
    """Incidents of the published aggregates, without resources."""
    still_open: int
    """Segments that are not final under the configuration; they are not counted."""


async def compare(settings: Settings, config: Config, wanted: Span, on_progress: OnProgress) -> Compared:
    """Parses the alerts of the range again and folds them under `config`. Raises `Retry` or `ActionRequired`."""
    async with open_reader(settings) as reader:
        closed = await open_range(settings, config, wanted, reader, on_progress)
        replayed, times = await read_event_times(closed)
        in_memory = InMemoryFold(config.windows, replayed.rebuild, config.max_fingerprints, config.max_resources)
        now = [
            without_details(aggregate)
            async for aggregate in fold(replayed, in_memory, read_parsed(replayed, times))
            if replayed.contains(aggregate.first_seen)
        ]
        published = [summary.aggregate for summary in (await read_published(replayed)).values()]
        then = [aggregate for aggregate in published if replayed.contains(aggregate.first_seen)]
        incidents = incidents_of(now), incidents_of(then)
        return Compared(replayed.span, now, then, *incidents, in_memory.count_open(*replayed.span))
