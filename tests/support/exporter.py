"""Lag as the `kafka_exporter` of the compose file reports it, computed as in its source."""

from stormfold.kafka.client import open_admin
from stormfold.kafka.committed import committed_offsets
from stormfold.kafka.reader import open_reader
from stormfold.settings import Settings
from stormfold.status.snapshot import STAGES, topic_of

NEVER = -1
"""Lag of a partition without a commit if another partition of the topic has one."""
Lags = dict[tuple[str, int], int]
"""Records by stage and partition."""


async def exporter_lag(settings: Settings) -> Lags:
    """Returns the end of each partition minus the group's commit; topics without a commit of the group are left out."""
    topics = {stage: topic_of(settings, stage) for stage in STAGES}
    lags: Lags = {}
    async with open_admin(settings) as admin, open_reader(settings) as tail:
        for stage, topic in topics.items():
            committed = await committed_offsets(admin, settings.consumer_group(stage), topic)
            for partition, end in (await tail.end_offsets(topic)).items() if committed else ():
                lags[stage, partition] = end - committed[partition][0] if partition in committed else NEVER
    return lags
