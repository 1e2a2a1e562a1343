"""Runs load and faults against each other, judges what came out, and makes the table of docs/reliability.md.

`python -m tests.chaos.run --seed 7 --minutes 30`: the same seed gives the same schedule and the same load.
"""

import argparse
import asyncio
import logging
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import NamedTuple

from app.config import loads
from tests.chaos.faults import CLUSTER, DISK, FAULTS
from tests.chaos.load import load
from tests.chaos.page import Outcome, Report, write
from tests.chaos.truth import judge
from tests.chaos.watch import Watch
from tests.chaos.world import PARTITIONS, ROOT, WINDOWS, World, world
from tests.support.apiserver import binaries
from tests.support.gobuild import CannotBuild
from tests.support.servers import until

RATE = 3_000
"""Alerts a second."""
REST = 0.5
"""Seconds between brief turns."""
WRONG_SHOWN = 20
WATCHED = 1 / 3
"""Of the run, how long a worker must have lived for its memory to be told of."""
RECOVERY = 120.0
"""Seconds after which a pipeline that has not recovered never will."""


class Strike(NamedTuple):
    """One fault at one moment."""

    fault: str
    after: float
    """Seconds after the turn's beginning."""
    seconds: float
    """How long it lasts."""
    seed: int
    """Decides whom it hits."""


class Turn(NamedTuple):
    """One fault, or two at once, after a rest."""

    rest: float
    strikes: tuple[Strike, ...]


def schedule(seed: int, names: Sequence[str], *, brief: bool = False) -> Iterator[Turn]:
    """Each fault alone, in an order that is drawn, then pairs of faults about different parts, for ever.

    Where there are no pairs, single faults. With `brief`, faults and rests are as short as they can be.
    """
    rng = random.Random(f"schedule {seed}")
    for name in sorted(rng.sample(names, len(names)), key=lambda name: not FAULTS[name].sweeping):
        yield _turn(rng, name, brief=brief)
    pairs = [
        (one, other) for one, other in combinations(names, 2)
        if FAULTS[one].part != FAULTS[other].part and not FAULTS[one].sweeping and not FAULTS[other].sweeping
    ]  # fmt: skip
    while True:
        yield _turn(rng, *(rng.sample(rng.choice(pairs), 2) if pairs else rng.sample(names, 1)), brief=brief)


def _turn(rng: random.Random, *names: str, brief: bool) -> Turn:
    strikes = []
    for number, name in enumerate(names):
        least, most = FAULTS[name].seconds
        lasts = least if brief else rng.uniform(least, most)
        strikes.append(Strike(name, rng.uniform(0, 2) * number, lasts, rng.randrange(2**32)))
    return Turn(REST if brief else rng.uniform(2, 5), tuple(strikes))


async def run(
    seed: int,
    names: Sequence[str],
    folder: Path,
    *,
    rate: int = RATE,
    minutes: float | None = None,
    brief: bool = False,
) -> Report:
    """Takes turns for so many minutes, or else until each fault has had its own; lets it all drain, and judges."""
    planned = load(seed, rate, loads(WINDOWS, "windows").windows, PARTITIONS)
    turns = schedule(seed, names, brief=brief)
    parts = {FAULTS[name].part for name in names}
    outcomes = []
    started = time.monotonic()
    async with world(folder, planned, disk=DISK in parts, cluster=CLUSTER in parts) as place:
        watch = Watch(place)
        tasks = [asyncio.create_task(place.producer.run()), asyncio.create_task(watch.run())]
        try:
            await until(lambda: watch.looks and not watch.looks[-1].troubles, RECOVERY, "all workers are ready")
            ends = time.monotonic() + minutes * 60 if minutes else None
            for turn in turns if minutes else islice(turns, len(names)):
                if ends and time.monotonic() > ends:
                    break
                outcomes.append(await _take(turn, place, watch, rate))
            place.producer.stopped.set()
            await tasks[0]
            await until(
                lambda: watch.looks[-1].open == watch.looks[-1].unwritten == 0, 120, "all is closed and written"
            )
            lives = watch.lives((time.monotonic() - started) * WATCHED)
            return Report(seed, rate, minutes or 0.0, outcomes, await judge(place), lives)
        except BaseException:
            tell(f"seed {seed} failed; logs in {folder}")
            raise
        finally:
            while any(not task.done() for task in tasks):
                # What aiokafka is in the middle of may swallow it.
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=1)


async def _take(turn: Turn, place: World, watch: Watch, rate: int) -> Outcome:
    await asyncio.sleep(turn.rest)
    before, sent = watch.before(), place.producer.sent
    begin, began = time.time_ns() // 1_000_000, time.monotonic()
    await asyncio.gather(*(_strike(strike, place) for strike in turn.strikes))
    mended = time.monotonic()
    at = await watch.recovered(before, mended, rate, RECOVERY)
    outcome = Outcome(
        tuple(strike.fault for strike in turn.strikes), begin, time.time_ns() // 1_000_000,
        before.unread + place.producer.sent - sent, watch.longest_stop(began, at), at - mended,
    )  # fmt: skip
    tell(f"{' + '.join(outcome.faults)}: {outcome.under_way:,} alerts under way, stopped for {outcome.stop:.1f} s, "
         f"recovered {outcome.recovery:.1f} s after {mended - began:.1f} s")  # fmt: skip
    return outcome


async def _strike(strike: Strike, place: World) -> None:
    await asyncio.sleep(strike.after)
    tell(f"  {strike.fault} for {strike.seconds:.1f} s")
    async with FAULTS[strike.fault].act(place, random.Random(strike.seed)):
        await asyncio.sleep(strike.seconds)


def possible(names: Sequence[str]) -> list[str]:
    """Those of the faults that this machine allows."""
    missing = {}
    if subprocess.run([*ROOT, "true"], check=False).returncode:
        missing[DISK] = "only root can make a disk"
    try:
        binaries()
    except CannotBuild as error:
        missing[CLUSTER] = str(error)
    for part, why in missing.items():
        tell(f"without faults of the {part}: {why}")
    return [name for name in names if FAULTS[name].part not in missing]


def tell(text: str) -> None:
    """A line for whoever watches."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--minutes", type=float, help="without it each fault has one turn")
    parser.add_argument("--faults", help=f"some of {','.join(FAULTS)}", default=",".join(FAULTS))
    parser.add_argument("--page", action="store_true", help="write the table of docs/reliability.md")
    parser.add_argument("--rate", type=int, default=RATE, help="alerts a second")
    options = parser.parse_args()
    names = possible(options.faults.split(","))
    # That the broker is away is no news here.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    tell(f"seed {options.seed}")
    folder = Path(tempfile.mkdtemp(prefix="stormfold-chaos-"))
    report = asyncio.run(run(options.seed, names, folder, rate=options.rate, minutes=options.minutes))
    tell(f"{report.verdict.books} {report.verdict.late} late, {report.verdict.storms} storms, in sinks: "
         f"{report.verdict.written}")  # fmt: skip
    for life in report.lives:
        tell(str(life))
    for wrong in report.verdict.wrong[:WRONG_SHOWN]:
        tell(f"WRONG: {wrong}")
    if len(report.verdict.wrong) > WRONG_SHOWN:
        tell(f"{len(report.verdict.wrong) - WRONG_SHOWN} more are wrong")
    if options.page:
        write(report)
    sys.exit(bool(report.verdict.wrong))


if __name__ == "__main__":
    main()
