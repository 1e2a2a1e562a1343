"""Steps of the page on backing out that no other test takes."""

from pathlib import Path

import yaml

from app.settings import Settings
from tests.support.pipeline import Sent, Workers, alert, drained, publish, record, storms
from tests.support.servers import until

NOW = 1_780_000_000_000
NAMES = 40


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
        assert (await drained(topics)).names == NAMES
        assert not first.exists()
        paused = set(await storms(topics))
        workers.start(stages="emit", sink=f"directory:{first}")
        await until(lambda: manifests(first) == paused, what="what waited is written")
        workers.start(stages="emit", sink=f"directory:{second}", group_prefix=f"{topics.group_prefix}-again")
        await until(lambda: manifests(second) == paused, what="all is written again")
    written = {path.name: path.read_bytes() for path in first.glob("*.yaml")}
    assert written == {path.name: path.read_bytes() for path in second.glob("*.yaml")}
