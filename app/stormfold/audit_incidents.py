"""The part of the audit that reads incidents, with the storms and the commits that they follow from."""

from contextlib import suppress

from aiokafka import ConsumerRecord

from stormfold.correlation import RecordPlace
from stormfold.decoding import Malformed
from stormfold.incident_audit import IncidentRecord, IncidentReport, StormRecord, compare_incidents
from stormfold.incident_manifest import decode_manifest as decode_incident
from stormfold.kafka.committed import newest_closed_before, read_committed
from stormfold.kafka.reader import TopicReader
from stormfold.manifest import decode_manifest
from stormfold.settings import Settings


class IncidentAudit:
    """Collects the storms, then compares. Nothing is compared if no worker has correlated: `closed_before` is None."""

    def __init__(
        self, settings: Settings, reader: TopicReader, closed_before: int | None, begins: dict[int, int]
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._closed_before = closed_before
        self._storms: list[StormRecord] = []
        self._trimmed: dict[int, int | None] = {partition: None for partition, begin in begins.items() if begin > 0}
        """Partitions from which retention has deleted records, with the timestamp of the first that is left."""

    def add(self, record: ConsumerRecord) -> None:
        """Adds a record of `storms`, in order of its partition."""
        if self._closed_before is None:
            return
        if self._trimmed.get(record.partition, 0) is None:
            self._trimmed[record.partition] = record.timestamp
        with suppress(Malformed):
            place = RecordPlace(record.partition, record.offset, record.timestamp)
            self._storms.append(StormRecord(place, decode_manifest(record.value)))

    async def compare(self) -> IncidentReport | None:
        """Reads `incidents` and compares."""
        closed_before = self._closed_before
        if closed_before is None:
            return None
        published = []
        async for record in self._reader.read(self._settings.incidents_topic):
            with suppress(Malformed):
                published.append(IncidentRecord(record.timestamp, decode_incident(record.value)))
        # An aggregate begins before it is published: what begins after the oldest record of each partition is there.
        oldest = [closed_before if time is None else time for time in self._trimmed.values()]
        return compare_incidents(self._storms, published, closed_before, max(oldest, default=None))


async def open_incident_audit(settings: Settings, reader: TopicReader) -> IncidentAudit:
    """Begins with the commits of correlate: what they say is published is in the topics that are read after them."""
    topic = settings.storms_topic
    committed = await read_committed(settings, settings.consumer_group("correlate"), topic)
    return IncidentAudit(settings, reader, newest_closed_before(committed), await reader.beginning_offsets(topic))
