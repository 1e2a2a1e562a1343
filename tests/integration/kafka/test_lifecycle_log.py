"""The log of a worker's membership in its consumer groups."""

import json
from pathlib import Path
from typing import Any

from stormfold.settings import Settings
from tests.support.servers import PARTITIONS, until
from tests.support.workers import Workers

ALL = list(range(PARTITIONS))


def logged(log: Path, message: str) -> list[dict[str, Any]]:
    """The lines with this message, in order."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    return [line for line in lines if line["message"] == message]


async def test_rebalances_are_logged_with_partitions_and_duration(topics: Settings, tmp_path: Path) -> None:
    """Every assignment, position and revocation: the first worker gets all partitions, then shares them."""
    first, second = tmp_path / "worker-0.log", tmp_path / "worker-1.log"
    with Workers(topics, tmp_path) as workers:
        workers.start(stages="intake")
        await until(lambda: logged(first, "positions assigned"), what="the first worker has positions")
        workers.start(stages="intake")
        await until(lambda: logged(second, "positions assigned"), what="the second worker has positions")
        await until(lambda: len(logged(first, "positions assigned")) > 1, what="the first worker has new positions")
    assigned = [*logged(first, "partitions assigned")[-1:], *logged(second, "partitions assigned")[-1:]]
    assert logged(first, "partitions assigned")[0]["partitions"] == ALL
    assert logged(first, "positions assigned")[0]["positions"] == {str(partition): 0 for partition in ALL}
    assert logged(first, "partitions revoked")[0]["partitions"] == ALL
    assert sorted(partition for line in assigned for partition in line["partitions"]) == ALL
    for line in [*assigned, *logged(first, "partitions revoked"), *logged(first, "positions assigned")]:
        assert (line["stage"], line["topic"]) == ("intake", topics.alerts_topic)
        assert line["duration_seconds"] >= 0
