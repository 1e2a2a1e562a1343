"""A short run of some faults under steady load; `make soak` runs all of them for longer."""

import os
from itertools import islice
from pathlib import Path
from random import SystemRandom

import pytest

from stormfold.config import loads
from tests.chaos.faults import CLUSTER, DISK, FAULTS, FORGETFUL, PIPELINE
from tests.chaos.load import load
from tests.chaos.run import Turn, excerpt, once, run, schedule
from tests.chaos.toxiproxy import program
from tests.chaos.world import PARTITIONS, WINDOWS
from tests.support import gobuild

SEED = "CHAOS_SEED"
"""Environment variable with the seed of a run to repeat."""
HERE = [name for name, fault in FAULTS.items() if fault.part not in (CLUSTER, DISK)]
"""Faults that need neither an API server nor a file system of their own; other tests cover the sinks."""
SINGLES, PAIRS = 4, 4


@pytest.fixture(scope="module")
def toxiproxy(request: pytest.FixtureRequest) -> None:
    """Builds Toxiproxy where it is not cached."""
    gobuild.built(request.config, program)


@pytest.mark.usefixtures("toxiproxy")
async def test_faults_under_load_lose_nothing_and_count_nothing_twice(tmp_path: Path) -> None:
    """Some faults and some pairs, different ones in each run.

    Every alert is keyed once, the aggregates are exactly those of the log, and every storm is in the sink once.
    """
    seed = int(os.environ.get(SEED) or SystemRandom().randrange(10_000))
    print(f"{SEED}={seed} repeats this run")
    turns = excerpt(seed, HERE, SINGLES, PAIRS)
    report = await run(seed, turns, HERE, tmp_path, rate=1_000)
    assert len(report.outcomes) == SINGLES + PAIRS
    assert report.verdict.alerts > 5_000
    assert not report.verdict.wrong


def test_the_same_seed_gives_the_same_load_and_schedule() -> None:
    windows = loads(WINDOWS, "windows").windows
    loads_made = [list(islice(load(seed, 1_000, windows, PARTITIONS), 2_000)) for seed in (1, 1, 2)]
    assert loads_made[0] == loads_made[1] != loads_made[2]
    for made in (
        [list(islice(schedule(seed, list(FAULTS)), 3 * len(FAULTS))) for seed in (1, 1, 2)],
        [once(seed, list(FAULTS)) for seed in (1, 1, 2)],
        [excerpt(seed, HERE, SINGLES, PAIRS) for seed in (1, 1, 2)],
    ):
        assert made[0] == made[1] != made[2]


def names(turns: list[Turn]) -> list[tuple[str, ...]]:
    """Returns the faults of each turn."""
    return [tuple(strike.fault for strike in turn.strikes) for turn in turns]


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_has_every_fault_alone_and_then_pairs(seed: int) -> None:
    """Sweeping faults are paired with each other part of the pipeline, and with a Redis that has lost data.

    Most pairs are of two parts of the pipeline.
    """
    found = names(list(islice(schedule(seed, list(FAULTS)), 1_000)))
    alone = [faults[0] for faults in found if len(faults) == 1]
    pairs = [faults for faults in found if len(faults) == 2]
    assert sorted(alone) == sorted(FAULTS)
    assert all(FAULTS[one].part != FAULTS[other].part for one, other in pairs)
    for name, fault in FAULTS.items():
        if fault.sweeping:
            partners = {other for pair in pairs if name in pair for other in pair if other != name}
            assert {FAULTS[other].part for other in partners} >= {*PIPELINE} - {fault.part}
            assert partners & {*FORGETFUL}
    inside = [FAULTS[one].part in PIPELINE and FAULTS[other].part in PIPELINE for one, other in pairs]
    assert sum(inside) > len(pairs) / 2
    # After that, some workers live until the end of the run.
    last = max(at for at, faults in enumerate(found) if any(FAULTS[name].sweeping for name in faults))
    assert last < len(FAULTS)


@pytest.mark.parametrize("brief", [False, True])
def test_the_second_fault_of_a_pair_begins_before_the_first_ends(brief: bool) -> None:
    turns = excerpt(3, HERE, 0, 500) if brief else list(islice(schedule(3, list(FAULTS)), 1_000))
    for turn in turns:
        first, *later = turn.strikes
        assert first.after == 0
        for second in later:
            assert second.after <= first.seconds + FAULTS[first.fault].takes
