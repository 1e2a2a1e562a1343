"""Steps of the page on backing out that no other test takes."""

import asyncio
import subprocess
import time
from pathlib import Path

import yaml
from redis.asyncio import Redis

from stormfold.config import load
from stormfold.settings import Settings
from tests.support.pipeline import (
    Sent,
    Workers,
    alert,
    assert_balanced,
    books,
    drained,
    essence,
    keyed_model,
    publish,
    record,
    storms,
)
from tests.support.servers import until

NOW = 1_780_000_000_000
NAMES = 40
BAD = """\
windows: {gap: 2s, grace: 1s, slice: 10s}
routes: [{name: default, storm_when: {alerts: 1000, resources: 1000}}]
silences: [{name: too much, match: 'alertname="Before0"'}]
"""
"""Windows as in the file that is right; nothing is a storm by it, and something is silenced."""


def manifests(folder: Path) -> set[str]:
    """Names of the storms that are written."""
    return {yaml.safe_load(path.read_text())["metadata"]["name"] for path in folder.glob("*.yaml")}


async def test_writing_paused_and_done_again(topics: Settings, tmp_path: Path) -> None:
    """Without emit storms wait in their topic; with it all are written; under another group prefix all are again."""
    flood = [Sent(NOW + n, record(alert(f"Down{n % NAMES}", pod=f"pod-{n}")), n % 3) for n in range(NAMES * 10)]
    await publish(topics, flood)
    first, second = tmp_path / "first", tmp_path / "second"
    with Workers(topics, tmp_path) as workers:
        workers.start(stages="intake,fold,close")
        assert (await drained(topics)).aggregates == NAMES
        assert not first.exists()
        paused = set(await storms(topics))
        workers.start(stages="emit", sink=f"directory:{first}")
        await until(lambda: manifests(first) == paused, what="what waited is written")
        workers.start(stages="emit", sink=f"directory:{second}", group_prefix=f"{topics.group_prefix}-again")
        await until(lambda: manifests(second) == paused, what="all is written again")
    written = {path.name: path.read_bytes() for path in first.glob("*.yaml")}
    assert written == {path.name: path.read_bytes() for path in second.glob("*.yaml")}


async def stopped(*workers: subprocess.Popen[bytes]) -> None:
    """They are asked to, and have."""
    for worker in workers:
        worker.terminate()
    assert [await asyncio.to_thread(worker.wait, 12) for worker in workers] == [0] * len(workers)


async def open_alerts(settings: Settings, config: Path, count: int) -> None:
    """Waits until so many alerts are folded and in no storm yet."""

    async def folded() -> bool:
        return (await books(settings, config, wait=0)).open == count

    await until(folded, what=f"{count} alerts are open")


def flood(name: str, count: int) -> list[Sent]:
    """So many alerts that happen now, over all partitions and several groups."""
    now = time.time_ns() // 1_000_000
    return [Sent(now, record(alert(f"{name}{n % 5}", pod=f"pod-{n}")), n % 3) for n in range(count)]


async def test_another_redis_prefix(topics: Settings, config_file: Path, tmp_path: Path) -> None:
    """Under another prefix what was open is rebuilt and what was closed stays: as if the prefix had never changed."""
    anew = topics.model_copy(update={"redis_prefix": f"{topics.redis_prefix}-anew"})
    with Workers(topics, tmp_path, config_file) as workers:
        first = workers.start()
        await publish(topics, flood("Closed", 150))
        assert (await drained(topics, config_file)).open == 0
        closed = set(await storms(topics))
        assert len(closed) >= 5
        await stopped(first)
        # Without close what comes stays open.
        second = workers.start(stages="intake,fold")
        await publish(topics, flood("Open", 150))
        await open_alerts(topics, config_file, 150)
        await stopped(second)
        async with Redis.from_url(topics.redis_url) as redis:
            assert not await redis.keys(f"{anew.redis_prefix}:*")
            before = {key: await redis.dump(key) for key in await redis.keys(f"{topics.redis_prefix}:*:b:*")}
            workers.start(redis_prefix=anew.redis_prefix)
            result = await drained(anew, config_file)
            # The old keys are as they were: nobody uses them any more.
            assert before
            assert before == {key: await redis.dump(key) for key in await redis.keys(f"{topics.redis_prefix}:*:b:*")}
        assert_balanced(result)
        published = {name: essence(storm) for name, storm in (await storms(topics)).items()}
    assert published == await keyed_model(topics, load(config_file))
    assert closed < published.keys()
    assert sum(storm.alerts for storm in published.values()) == 300


async def test_the_old_configuration_again(topics: Settings, config_file: Path, tmp_path: Path) -> None:
    """Thresholds and silences hold for what is read from then on; what is open closes as what it was."""
    bad = tmp_path / "bad.yaml"
    await asyncio.to_thread(bad.write_text, BAD)
    with Workers(topics, tmp_path) as workers:
        first = workers.start(stages="intake,fold", config=str(bad))
        await publish(topics, flood("Before", 100))
        await open_alerts(topics, bad, 100)
        await stopped(first)
        await publish(topics, flood("After", 100))
        workers.start(config=str(config_file))
        assert_balanced(await drained(topics, config_file))
    classes = {storm.group_labels["alertname"]: storm.aggregate_class for storm in (await storms(topics)).values()}
    before = {f"Before{n}": "Silenced" if n == 0 else "Isolated" for n in range(5)}
    assert classes == before | {f"After{n}": "Storm" for n in range(5)}
