"""The topics on a real broker."""

from app.kafka.client import open_admin
from app.kafka.topics import check, create, topics
from app.settings import Settings


async def test_created_topics_are_right(settings: Settings) -> None:
    """What is created passes the check, and creating again changes nothing."""
    wanted = topics(settings, 2)
    async with open_admin(settings) as admin:
        assert {finding.state for finding in await check(admin, wanted)} == {"missing"}
        assert sorted(await create(admin, wanted)) == sorted(topic.name for topic in wanted)
        assert await check(admin, wanted) == []
        assert await create(admin, wanted) == []
