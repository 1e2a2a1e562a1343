"""The configuration changes while alerts flow: every alert is counted once, under one configuration."""

import asyncio
import random
from pathlib import Path

from stormfold.redis.client import connect
from stormfold.redis.store import Store
from stormfold.settings import Settings
from stormfold.window import Windows
from tests.support.alerts import Sent, alert, now, record
from tests.support.pipeline import SHORT_WINDOWS, Pipeline
from tests.support.servers import PARTITIONS, until

SMALL_POLLS = {"max_poll_records": "5"}


def unlabelled(count: int) -> list[Sent]:
    """Alerts without a cluster, whose fingerprints depend on `default_labels`."""
    rng = random.Random(count)
    alerts = [alert(f"Group{rng.randrange(5)}", pod=f"pod-{n}") for n in range(count)]
    for one in alerts:
        del one["labels"]["cluster"]
    return [Sent(now(), record(one), n % PARTITIONS) for n, one in enumerate(alerts)]


async def windows(settings: Settings) -> Windows | None:
    """The windows of the current state version."""
    async with connect(settings) as redis:
        version = await Store(redis, settings.redis_prefix).version()
    return version.windows if version else None


def swap(file: Path, version: str, text: str) -> None:
    """Mounts another version of the ConfigMap that `file` is in, as the kubelet does."""
    folder = file.parent
    (folder / version).mkdir()
    (folder / version / file.name).write_text(text)
    (folder / "..tmp").symlink_to(version)
    (folder / "..tmp").rename(folder / "..data")


async def test_a_swapped_configmap_applies_while_alerts_flow_and_every_alert_is_counted_once(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """The new configuration gives the same alerts other fingerprints and groups, and later other windows."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    file = folder / "stormfold.yaml"
    swap(file, "1", SHORT_WINDOWS + "default_labels: {cluster: before}\n")
    file.symlink_to("..data/stormfold.yaml")
    pipeline.workers.config = file
    for _ in range(2):
        pipeline.start(**SMALL_POLLS)
    flowing, published = True, 0

    async def publish() -> None:
        nonlocal published
        while flowing:
            await pipeline.publish(unlabelled(60))
            published += 60
            await asyncio.sleep(0.1)

    async def clusters() -> set[str]:
        return {found.group_labels["cluster"] for found in (await pipeline.aggregates()).values()}

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(publish())
        await until(lambda: pipeline.logs().count('"worker started"') == 2, what="both workers have read the file")
        await until(pipeline.source_positions, what="alerts are keyed")
        swap(file, "2", SHORT_WINDOWS + "default_labels: {cluster: after}\n")
        await until(lambda: pipeline.logs().count("configuration applied") == 2, what="both workers apply it")
        already = published
        await until(lambda: published > already, what="alerts flow")
        flowing = False
    await pipeline.drained(alerts=published)
    assert await clusters() == {"before", "after"}
    swap(file, "3", "windows: {gap: 4s, grace: 1s, slice: 12s}\n")

    async def changed() -> bool:
        return await windows(pipeline.settings) == Windows(4_000, 1_000, 12_000)

    await until(changed, what="the new windows apply")
    await pipeline.publish(unlabelled(30))
    await pipeline.drained(alerts=published + 30)
