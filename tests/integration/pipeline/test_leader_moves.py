"""A new leader does not know at once which of its records its predecessor had acknowledged (KIP-207)."""

import asyncio
import signal
from pathlib import Path

from aiokafka.admin import NewTopic

from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import topics
from stormfold.local.redis import EmbeddedRedis
from stormfold.settings import Settings
from tests.chaos.brokers import BROKERS, Cluster, coordinated_by_one, end_error, freeze, prefer, running, thaw
from tests.support.alerts import now, spread
from tests.support.model import keyed_alerts
from tests.support.pipeline import Pipeline
from tests.support.servers import until
from tests.support.workers import Workers

PARTITIONS = 4
LEADER_NOT_AVAILABLE = 5
STAGES = ("intake", "fold")
SILENT_SECONDS = 12.0
"""Far more than the grace, and than clients need to find the new leader and read from it."""
SLOW_DETECTION = {
    "broker.session.timeout.ms": "60000",
    "replica.lag.time.max.ms": "60000",
    "offsets.topic.replication.factor": "1",
}
"""A silent broker counts as alive and in sync for longer than the test lasts."""


async def test_records_that_a_new_leader_does_not_show_yet_are_not_late(
    redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """Until its follower has fetched, the new leader answers fetches as if the last records did not exist.

    No worker may take that for the end of the partition.
    """
    async with running(Cluster(tmp_path / "kafka", [[]] * BROKERS, SLOW_DETECTION)) as cluster:
        settings, rest = await coordinated_by_one(cluster, redis_server.url, STAGES)
        leader = cluster.rest(rest)
        await create_topics(settings, leader, rest)
        with Workers(settings, tmp_path) as workers:
            pipeline = Pipeline(settings, workers)
            pipeline.configure("windows: {gap: 2s, grace: 2s, slice: 10s}\n")
            worker = pipeline.start()
            await pipeline.publish(spread("Before", 30, now(), step=0, partitions=1))
            await until(pipeline.aggregates, 60, "an aggregate is published")
            # The worker must not read the next alerts from the old leader: it is frozen until its fetches are answered.
            worker.send_signal(signal.SIGSTOP)
            await asyncio.sleep(1)
            await pipeline.publish(spread("During", 30, now(), step=0, partitions=1))
            freeze(cluster.broker(leader))
            worker.send_signal(signal.SIGCONT)
            try:
                await prefer(cluster.broker(rest), settings.alerts_topic, 0, [rest, leader])

                async def unsure() -> bool:
                    return await end_error(cluster.broker(rest), settings.alerts_topic, 0) == LEADER_NOT_AVAILABLE

                await until(unsure, 10, "the other broker leads, and does not know the end")
                await asyncio.sleep(SILENT_SECONDS)
                assert await unsure()
            finally:
                thaw(cluster.broker(leader))
            await pipeline.assert_keyed_model(alerts=60)
            assert not [found async for found in keyed_alerts(settings) if found.late]


async def create_topics(settings: Settings, leader: int, rest: int) -> None:
    """Creates `alerts` with one partition, replicated on both brokers, and all other topics on the other one alone."""
    async with open_admin(settings) as admin:
        await admin.create_topics(
            [
                NewTopic(
                    topic.name, -1, -1,
                    {0: [leader, rest]} if topic.name == settings.alerts_topic
                    else {partition: [rest] for partition in range(PARTITIONS)},
                    {setting.name: setting.value for setting in topic.settings},
                )
                for topic in topics(settings, PARTITIONS, producer_timestamps=True)
            ]
        )  # fmt: skip
