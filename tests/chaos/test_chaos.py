"""Faults against a load that never rests, shortly; `make soak` does it for longer, with more of them."""

from itertools import islice
from pathlib import Path

import pytest

from app.config import loads
from tests.chaos.faults import FAULTS
from tests.chaos.load import load
from tests.chaos.run import run, schedule
from tests.chaos.toxiproxy import program
from tests.chaos.world import PARTITIONS, WINDOWS
from tests.support import gobuild

SEED = 20_261_123
CHEAP = (
    "worker-killed", "worker-nap", "redis-truncated", "redis-flushed", "redis-scripts", "redis-failover", "redis-reset",
    "kafka-killed", "kafka-late", "kafka-reset", "storms-partition", "clocks-skewed",
)  # fmt: skip
"""Those that cost few seconds; what else there is breaks one by one in the tests of the pipeline."""


@pytest.fixture(scope="module")
def toxiproxy(request: pytest.FixtureRequest) -> None:
    """Builds it where it is not cached."""
    gobuild.built(request.config, program)


@pytest.mark.usefixtures("toxiproxy")
async def test_nothing_lost_nothing_twice(tmp_path: Path) -> None:
    """Each cheap fault once while alerts flow: the books balance, and names, counts, members and times are those that
    the log decides; every alert was keyed once, every storm is in the sink once."""
    report = await run(SEED, CHEAP, tmp_path, rate=1_000, brief=True)
    assert {name for outcome in report.outcomes for name in outcome.faults} == set(CHEAP)
    assert report.verdict.alerts > 5_000
    assert not report.verdict.wrong


def test_replayable() -> None:
    """The same seed gives the same load and the same schedule; another seed gives others."""
    windows = loads(WINDOWS, "windows").windows
    loads_made = [list(islice(load(seed, 1_000, windows, PARTITIONS), 2_000)) for seed in (1, 1, 2)]
    assert loads_made[0] == loads_made[1] != loads_made[2]
    turns = [list(islice(schedule(seed, list(FAULTS)), 3 * len(FAULTS))) for seed in (1, 1, 2)]
    assert turns[0] == turns[1] != turns[2]
