"""What the `kafka_exporter` of the compose file says of lag, reckoned as its source does: it is not to be had here."""

from stormfold.kafka.client import open_admin
from stormfold.kafka.committed import committed_offsets
from stormfold.kafka.reader import open_reader
from stormfold.settings import Settings

NEVER = -1
"""Of a partition without a commit, where another one of the topic has one."""
Lags = dict[tuple[str, int], int]
"""Records by stage and partition."""


async def exporter_says(settings: Settings) -> Lags:
    """End of each partition less the group's commit; of a topic without any commit of the group, nothing."""
    topics = {"intake": settings.alerts_topic, "fold": settings.keyed_topic, "emit": settings.storms_topic}
    said: Lags = {}
    async with open_admin(settings) as admin, open_reader(settings) as tail:
        for stage, topic in topics.items():
            committed = await committed_offsets(admin, settings.consumer_group(stage), topic)
            for partition, end in (await tail.ends(topic)).items() if committed else ():
                said[stage, partition] = end - committed[partition][0] if partition in committed else NEVER
    return said
