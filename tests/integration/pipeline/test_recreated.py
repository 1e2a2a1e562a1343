"""Topics that were deleted and created anew: refused until somebody says that it was meant, then read again."""

import asyncio
from pathlib import Path
from typing import Any

from stormfold.kafka.client import open_admin
from stormfold.kafka.topics import create
from stormfold.kafka.topics import topics as wanted_topics
from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.stages.reset_positions import forget
from tests.support.pipeline import Sent, Workers, alert, assert_balanced, drained, publish, record, storms
from tests.support.servers import until

NOW = 1_780_000_000_000
SMALL = "windows: {gap: 2s, grace: 1s, slice: 10s}\n"


async def recreate(settings: Settings, topic: str) -> None:
    """Deletes a topic and makes it again."""
    async with open_admin(settings) as admin:
        await admin.delete_topics([topic])
        await until(lambda: _gone(admin, topic), what=f"{topic} is gone")
        await create(admin, wanted_topics(settings, 3, past=True, max_record=2_000_000))


async def forgotten(settings: Settings) -> list[str]:
    """What `stormfold topics --reset-positions` forgets."""
    async with connect(settings) as redis:
        return await forget(settings, Store(redis, settings.redis_prefix))


async def alerts_of(settings: Settings, name: str) -> int:
    """Alerts in published storms of that alert name."""
    found = (await storms(settings)).values()
    return sum(storm.alert_count for storm in found if storm.group_labels["alertname"] == name)


def sent(name: str, count: int, start: int) -> list[Sent]:
    """So many alerts of that name, over all partitions."""
    return [Sent(start + n, record(alert(name, pod=f"pod-{n}")), n % 3) for n in range(count)]


async def test_alerts_created_anew(topics: Settings, tmp_path: Path) -> None:
    """New offsets begin at 0 again; after --reset-positions the new alerts count, although their origins look old."""
    config = tmp_path / "stormfold.yaml"
    config.write_text(SMALL)
    await publish(topics, sent("Old", 300, NOW))
    with Workers(topics, tmp_path, config) as workers:
        first = workers.start()
        assert_balanced(await drained(topics, config))
        first.terminate()
        assert await asyncio.to_thread(first.wait, 10) == 0
        await recreate(topics, topics.alerts_topic)
        await publish(topics, sent("New", 90, NOW + 1_000_000))
        refusing = workers.start()
        await until(lambda: "topics --reset-positions" in workers.logs() or "created again" in workers.logs())
        refusing.terminate()
        await asyncio.to_thread(refusing.wait, 10)
        assert await alerts_of(topics, "New") == 0
        assert await forgotten(topics) == [f"{topics.alerts_topic}-{p}" for p in range(3)]
        workers.start()
        await until(lambda: alerts_of(topics, "New"), what="new alerts come out")
        await until(lambda: _complete(topics, 90), what="all of them")
        assert await alerts_of(topics, "Old") == 300


async def _gone(admin: Any, topic: str) -> bool:
    return topic not in await admin.list_topics()


async def _complete(settings: Settings, count: int) -> bool:
    return await alerts_of(settings, "New") == count


async def test_keyed_topic_created_anew(topics: Settings, tmp_path: Path) -> None:
    """The positions in Redis are beyond the new topic's end; after --reset-positions what comes is folded."""
    config = tmp_path / "stormfold.yaml"
    config.write_text(SMALL)
    await publish(topics, sent("Old", 300, NOW))
    with Workers(topics, tmp_path, config) as workers:
        first = workers.start()
        assert_balanced(await drained(topics, config))
        first.terminate()
        assert await asyncio.to_thread(first.wait, 10) == 0
        await recreate(topics, topics.keyed_topic)
        refusing = workers.start()
        await until(lambda: "created again" in workers.logs())
        refusing.terminate()
        await asyncio.to_thread(refusing.wait, 10)
        places = await forgotten(topics)
        assert places == [f"{topics.keyed_topic}-{p}" for p in range(3)]
        workers.start()
        await publish(topics, sent("New", 90, NOW + 1_000_000))
        await until(lambda: _complete(topics, 90), what="new alerts come out")


async def test_nothing_to_forget(topics: Settings, tmp_path: Path) -> None:
    """Positions that fit their topics are left alone."""
    await publish(topics, sent("Old", 30, NOW))
    with Workers(topics, tmp_path) as workers:
        workers.start()
        assert_balanced(await drained(topics))
    assert await forgotten(topics) == []


async def test_created_anew_under_a_worker(topics: Settings, tmp_path: Path) -> None:
    """A worker that runs while the topic is deleted and made again refuses the new one too, or counts all of it."""
    config = tmp_path / "stormfold.yaml"
    config.write_text(SMALL)
    await publish(topics, sent("Old", 300, NOW))
    with Workers(topics, tmp_path, config) as workers:
        workers.start()
        assert_balanced(await drained(topics, config))
        await recreate(topics, topics.alerts_topic)
        await publish(topics, sent("New", 90, NOW + 1_000_000))
        await until(lambda: "created again" in workers.logs(), what="it is refused")
        assert await alerts_of(topics, "New") == 0
