"""How many partitions a topic has, asked of the broker."""

from app.errors import Stop
from app.kafka.client import open_admin
from app.settings import Settings


async def partitions_of(settings: Settings, topic: str) -> set[int]:
    """The partitions of a topic. Raises `Stop` if there is no such topic, `Retry` while no broker answers."""
    async with open_admin(settings) as admin:
        (found,) = await admin.describe_topics([topic])
    if found["error_code"]:
        raise Stop(f"topic {topic} does not exist in Kafka at {settings.kafka}", "run `stormfold topics --create`")
    return {partition["partition"] for partition in found["partitions"]}
