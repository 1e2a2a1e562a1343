"""Which storms come too late for an incident."""

from collections.abc import Sequence
from contextlib import suppress

from stormfold.correlation import Correlation
from stormfold.decoding import Malformed
from stormfold.incident_manifest import decode_manifest
from stormfold.incident_part import Part
from stormfold.kafka.reader import TopicReader
from stormfold.settings import Settings
from stormfold.storm import Aggregate


async def count_late(settings: Settings, reader: TopicReader, aggregates: Sequence[Aggregate]) -> int:
    """Number of storms among the aggregates whose incident is published without them."""
    storms = [part for part in map(Part.of, aggregates) if part is not None and part.storm]
    if not storms:
        return 0
    correlation = Correlation()
    async for record in reader.read(settings.incidents_topic):
        with suppress(Malformed):
            correlation.know(decode_manifest(record.value))
    return sum(correlation.is_done(storm) for storm in storms)
