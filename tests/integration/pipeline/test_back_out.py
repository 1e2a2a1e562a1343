"""Steps of docs/operations/back-out.md that no other test takes."""

import asyncio
import re
from pathlib import Path

import yaml
from redis.asyncio import Redis

from tests.support.alerts import now, spread
from tests.support.pipeline import Pipeline
from tests.support.servers import until
from tests.support.workers import stop

PAGE = Path(__file__).parents[3] / "docs" / "operations" / "back-out.md"
NOW = 1_780_000_000_000
NAMES = 40
BAD = """\
windows: {gap: 2s, grace: 1s, slice: 10s}
routes: [{name: default, storm_when: {alerts: 1000, resources: 1000}}]
silences: [{name: too much, match: 'alertname="Before0"'}]
"""
"""The windows of the right configuration, but nothing is a storm, and one group is silenced."""


def manifests(folder: Path) -> set[str]:
    """Returns the names of the storms and incidents that are written."""
    return {yaml.safe_load(path.read_text())["metadata"]["name"] for path in folder.rglob("*.yaml")}


async def wait_for_open_alerts(pipeline: Pipeline, count: int) -> None:
    """Waits until `count` alerts are folded and not yet closed."""

    async def folded() -> bool:
        return (await pipeline.audit(wait=0)).open == count

    await until(folded, what=f"{count} alerts are open")


def stages_of(step: str) -> str:
    """Returns the stages that the page names for a step."""
    (found,) = re.findall(rf"^\| {step} \| .*?`STORMFOLD_STAGES=([a-z,]+)`", PAGE.read_text(), re.MULTILINE)
    return str(found)


async def test_storms_and_incidents_wait_while_emit_is_paused_and_are_written_again_under_another_group_prefix(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    await pipeline.publish(spread("Down", NAMES * 10, NOW, groups=NAMES))
    first, second = tmp_path / "first", tmp_path / "second"
    pipeline.start(stages=stages_of("stop only writing resources"), sink=f"directory:{first}")
    await pipeline.drained(aggregates=NAMES)

    async def incidents() -> set[str]:
        return {found.key.decode() for found in await pipeline.read(pipeline.settings.incidents_topic)}

    published = await until(incidents, what="the incident of the storms is published")
    assert not first.exists()
    paused = {*await pipeline.aggregates(), *published}

    emit = stages_of("write the waiting storms and incidents")
    pipeline.start(stages=emit, sink=f"directory:{first}")
    await until(lambda: manifests(first) == paused, what="the waiting storms and incidents are written")
    again = f"{pipeline.settings.group_prefix}-again"
    pipeline.start(stages=emit, sink=f"directory:{second}", group_prefix=again)
    await until(lambda: manifests(second) == paused, what="all storms and incidents are written again")
    written = {path.name: path.read_bytes() for path in first.rglob("*.yaml")}
    assert written == {path.name: path.read_bytes() for path in second.rglob("*.yaml")}


async def test_another_redis_prefix_rebuilds_open_groups_and_changes_no_closed_aggregate(
    short_pipeline: Pipeline,
) -> None:
    settings = short_pipeline.settings
    other = settings.model_copy(update={"redis_prefix": f"{settings.redis_prefix}-other"})
    buckets = f"{settings.redis_prefix}:*:b:*"

    first = short_pipeline.start()
    await short_pipeline.publish(spread("Closed", 150, now(), groups=5, step=0))
    await short_pipeline.drained()
    closed = set(await short_pipeline.aggregates())
    assert len(closed) >= 5
    await stop(first)

    # Without the stage close, all new alerts stay open.
    second = short_pipeline.start(stages="intake,fold")
    await short_pipeline.publish(spread("Open", 150, now(), groups=5, step=0))
    await wait_for_open_alerts(short_pipeline, 150)
    await stop(second)

    async with Redis.from_url(settings.redis_url) as redis:
        assert not await redis.keys(f"{other.redis_prefix}:*")
        before = {key: await redis.dump(key) for key in await redis.keys(buckets)}
        short_pipeline.start(redis_prefix=other.redis_prefix)
        renamed = Pipeline(other, short_pipeline.workers)
        published = await renamed.assert_keyed_model()
        # No worker uses the keys of the old prefix any more.
        assert before
        assert before == {key: await redis.dump(key) for key in await redis.keys(buckets)}
    assert closed < published.keys()
    assert sum(aggregate.alerts for aggregate in published.values()) == 300


async def test_open_groups_keep_the_thresholds_and_silences_of_the_configuration_that_read_them(
    short_pipeline: Pipeline, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.yaml"
    await asyncio.to_thread(bad.write_text, BAD)
    first = short_pipeline.start(stages="intake,fold", config=str(bad))
    await short_pipeline.publish(spread("Before", 100, now(), groups=5, step=0))
    await wait_for_open_alerts(short_pipeline, 100)
    await stop(first)
    await short_pipeline.publish(spread("After", 100, now(), groups=5, step=0))
    short_pipeline.start()
    await short_pipeline.drained()

    classes = {
        found.group_labels["alertname"]: found.aggregate_class for found in (await short_pipeline.aggregates()).values()
    }
    before = {f"Before{n}": "Silenced" if n == 0 else "Isolated" for n in range(5)}
    assert classes == before | {f"After{n}": "Storm" for n in range(5)}
