"""Injects faults under load, verifies the results, and writes the table of docs/reliability.md.

`python -m tests.chaos.run --seed 7 --minutes 30`: the same seed and faults give the same schedule and the same load.
"""

import argparse
import asyncio
import logging
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from stormfold.config import loads
from tests.chaos.compare import now
from tests.chaos.faults import CLUSTER, DISK, FAULTS, FORGETFUL, PIPELINE
from tests.chaos.load import load
from tests.chaos.page import Outcome, Report, repeat, write
from tests.chaos.truth import validate
from tests.chaos.watch import SETTLED_MINUTES, Watch, growth
from tests.chaos.world import PARTITIONS, ROOT, WINDOWS, World, world
from tests.support.apiserver import binaries
from tests.support.gobuild import CannotBuild
from tests.support.servers import until

RATE = 3_000
"""Alerts a second."""
REST = 0.5
"""Seconds between brief turns."""
OVERLAP = 4.0
"""Longest delay (s) of the second of two faults."""
WEIGHT = 3
"""How many times as often a part of the pipeline is drawn for a pair as a part before or behind it."""
WRONG_SHOWN = 20
WATCHED = 1 / 3
"""Share of the run that a worker must live for its memory to be reported."""
RECOVERY = 300.0
"""Seconds within which a pipeline must recover. An API server that restarts on a store of ten thousand storms needs two
minutes on two busy cores until it has listed all."""


class Strike(NamedTuple):
    """One fault at one moment."""

    fault: str
    after: float
    """Delay after the beginning of the turn (s)."""
    seconds: float
    """Duration (s)."""
    seed: int
    """Decides which workers and servers it hits."""


class Turn(NamedTuple):
    """One fault, or two at once, after a rest."""

    rest: float
    strikes: tuple[Strike, ...]


def schedule(seed: int, names: Sequence[str]) -> Iterator[Turn]:
    """Yields each fault alone, in an order that is drawn, then pairs of faults of different parts, without end.

    Sweeping faults and their pairs come first: each with a fault of every part of the pipeline, of Redis with one that
    loses data. If no pair is possible, single faults follow.
    """
    rng = random.Random(f"schedule {seed}")
    order = sorted(rng.sample(names, len(names)), key=lambda name: not FAULTS[name].sweeping)
    sweeping = [name for name in order if FAULTS[name].sweeping]
    for name in sweeping:
        yield _turn(rng, name)
    for pair in _sweeping_pairs(rng, sweeping, names):
        yield _turn(rng, *pair)
    for name in order[len(sweeping) :]:
        yield _turn(rng, name)
    others = [name for name in names if not FAULTS[name].sweeping] or names
    while True:
        yield _turn(rng, *(_pair(rng, others) or rng.sample(others, 1)))


def once(seed: int, names: Sequence[str]) -> list[Turn]:
    """Returns a turn for each fault alone, in an order that is drawn."""
    rng = random.Random(f"once {seed}")
    return [_turn(rng, name) for name in rng.sample(names, len(names))]


def excerpt(seed: int, names: Sequence[str], singles: int, pairs: int) -> list[Turn]:
    """Returns turns of some faults alone, then of some pairs, with the shortest durations and rests.

    Sweeping faults take long, so there is only one: with a Redis that has lost data.
    """
    rng = random.Random(f"excerpt {seed}")
    sweeping = [name for name in names if FAULTS[name].sweeping]
    others = [name for name in names if not FAULTS[name].sweeping]
    turns = [_turn(rng, name, brief=True) for name in rng.sample(others, singles)]
    turns.append(_turn(rng, rng.choice(sweeping), rng.choice(FORGETFUL), brief=True))
    return turns + [_turn(rng, *(_pair(rng, others) or ()), brief=True) for _ in range(pairs - 1)]


def _sweeping_pairs(rng: random.Random, sweeping: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in sweeping:
        for part in PIPELINE:
            partners = [other for other in names if FAULTS[other].part == part != FAULTS[name].part]
            partners = [other for other in partners if other in FORGETFUL] or partners
            if partners:
                yield name, rng.choice(partners)


def _pair(rng: random.Random, names: Sequence[str]) -> tuple[str, str] | None:
    pairs = [(one, other) for one, other in combinations(names, 2) if FAULTS[one].part != FAULTS[other].part]
    weights = [_weight(one) * _weight(other) for one, other in pairs]
    return rng.choices(pairs, weights)[0] if pairs else None


def _weight(name: str) -> int:
    return WEIGHT if FAULTS[name].part in PIPELINE else 1


def _turn(rng: random.Random, *names: str, brief: bool = False) -> Turn:
    """Returns a turn whose longest fault comes first, so that the next one begins while it is active."""
    strikes = []
    for name in names:
        shortest, longest = FAULTS[name].seconds
        strikes.append(Strike(name, 0.0, shortest if brief else rng.uniform(shortest, longest), rng.randrange(2**32)))
    strikes.sort(key=_span, reverse=True)
    later = (
        strike._replace(after=rng.uniform(0, min(OVERLAP, 0.8 * _span(strikes[0]))))
        for strike in strikes[1:]
    )  # fmt: skip
    return Turn(REST if brief else rng.uniform(2, 5), (strikes[0], *later))


def _span(strike: Strike) -> float:
    return strike.seconds + FAULTS[strike.fault].takes


async def run(
    seed: int, turns: Iterable[Turn], names: Sequence[str], folder: Path, *, rate: int = RATE, minutes: float = 0.0
) -> Report:
    """Runs the turns, for `minutes` if they do not end; then waits until everything is drained, and verifies it."""
    planned = load(seed, rate, loads(WINDOWS, "windows").windows, PARTITIONS)
    parts = {FAULTS[name].part for name in names}
    outcomes = []
    started = time.monotonic()
    async with world(folder, planned, disk=DISK in parts, cluster=CLUSTER in parts) as place:
        watch = Watch(place)
        tasks = [asyncio.create_task(place.producer.run()), asyncio.create_task(watch.run())]
        try:
            await until(
                lambda: watch.observations and not watch.observations[-1].problems, RECOVERY, "all workers are ready"
            )
            ends = time.monotonic() + minutes * 60 if minutes else None
            for turn in turns:
                if ends and time.monotonic() > ends:
                    break
                outcomes.append(await _take(turn, place, watch, rate))
            place.producer.stopped.set()
            await tasks[0]
            log(f"{place.producer.sent:,} alerts sent, {place.producer.failed:,} deliveries failed")
            await until(
                lambda: watch.observations[-1].open == watch.observations[-1].unwritten == 0,
                120,
                "everything is closed and written",
            )
            lives = watch.lives((time.monotonic() - started) * WATCHED)
            verdict = await validate(place)
            verdict.wrong += [now(complaint) for life in lives for complaint in growth(life)]
            if minutes > 2 * SETTLED_MINUTES and not any(life.settled for life in lives):
                verdict.wrong.append(now("no worker lived long enough to judge its memory"))
            return Report(seed, tuple(names), rate, minutes, outcomes, verdict, lives)
        except BaseException:
            log(f"seed {seed} failed; logs in {folder}")
            raise
        finally:
            while any(not task.done() for task in tasks):
                # aiokafka may suppress a cancellation.
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=1)


async def _take(turn: Turn, place: World, watch: Watch, rate: int) -> Outcome:
    await asyncio.sleep(turn.rest)
    before, sent = watch.before(), place.producer.sent
    begin, began = time.time_ns() // 1_000_000, time.monotonic()
    begun = [asyncio.Event() for _ in turn.strikes]
    strikes = await asyncio.gather(
        *(_strike(strike, place, mine, begun) for strike, mine in zip(turn.strikes, begun, strict=True))
    )
    repaired = max(strike.at for strike in strikes)
    settling = [strike.settling for strike in strikes if strike.settling]
    at = await watch.recovered(before, repaired, rate, RECOVERY)
    await asyncio.gather(*settling)
    # Servers that settled later may have disturbed the pipeline again.
    last = await watch.recovered(before, time.monotonic(), rate, RECOVERY) if settling else at
    faults = tuple(strike.fault for strike in turn.strikes)
    outcome = Outcome(
        faults, begin, time.time_ns() // 1_000_000, before.unread + place.producer.sent - sent,
        watch.longest_stop(began, last), at - repaired, all(strike.struck for strike in strikes),
    )  # fmt: skip
    log(f"{' + '.join(outcome.faults)}: {outcome.under_way:,} alerts under way, stopped for {outcome.stop:.1f} s, "
         f"recovered {outcome.recovery:.1f} s after {repaired - began:.1f} s")  # fmt: skip
    return outcome


class Repaired(NamedTuple):
    """A fault that has been repaired."""

    struck: bool
    """Whether it broke anything, as far as is known."""
    at: float
    """Monotonic time (s) of the repair."""
    settling: asyncio.Task[None] | None
    """The task that waits until servers have settled."""


async def _strike(strike: Strike, place: World, mine: asyncio.Event, begun: Sequence[asyncio.Event]) -> Repaired:
    """Runs one fault, at least until all others of the turn have begun."""
    await asyncio.sleep(strike.after)
    log(f"  {strike.fault} for {strike.seconds:.1f} s")
    mine.set()
    fault = FAULTS[strike.fault]
    async with fault.act(place, random.Random(strike.seed)) as proof:
        await asyncio.sleep(strike.seconds)
        for event in begun:
            await event.wait()
        struck = await proof() if proof else True
    at = time.monotonic()
    if not struck:
        log(f"  {strike.fault} struck nothing")
    return Repaired(struck, at, asyncio.create_task(fault.settles(place)) if fault.settles else None)


def possible() -> list[str]:
    """Returns the faults that are possible on this machine."""
    missing = {}
    if subprocess.run([*ROOT, "true"], check=False).returncode:
        missing[DISK] = "mounting a file system needs root"
    try:
        binaries()
    except CannotBuild as error:
        missing[CLUSTER] = str(error)
    for part, why in missing.items():
        log(f"no faults of {part}: {why}")
    return [name for name in FAULTS if FAULTS[name].part not in missing]


def log(text: str) -> None:
    """Writes one line with the time to standard error."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def _faults(text: str) -> list[str]:
    """Parses names of faults into the order of `FAULTS`, because the order is part of the schedule."""
    named = set(text.split(","))
    if unknown := named - FAULTS.keys():
        raise argparse.ArgumentTypeError(f"no such fault: {', '.join(sorted(unknown))}")
    return [name for name in FAULTS if name in named]


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="how long to run; without it each fault has one turn"
    )
    parser.add_argument(
        "--faults", type=_faults, help=f"some of {','.join(FAULTS)}; by default all that are possible on this machine"
    )
    parser.add_argument("--page", action="store_true", help="write the table of docs/reliability.md")
    parser.add_argument("--rate", type=int, default=RATE, help="alerts a second")
    options = parser.parse_args()
    names = options.faults or possible()
    # Unavailable brokers are expected here.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    log(repeat(options.seed, names, options.rate, options.minutes))
    folder = Path(tempfile.mkdtemp(prefix="stormfold-chaos-"))
    turns = schedule(options.seed, names) if options.minutes else once(options.seed, names)
    report = asyncio.run(run(options.seed, turns, names, folder, rate=options.rate, minutes=options.minutes))
    log(f"{report.verdict.books} {report.verdict.late} late, {report.verdict.storms} storms, in sinks: "
         f"{report.verdict.written}; {report.verdict.excused}")  # fmt: skip
    for life in report.lives:
        log(str(life))
    for wrong in report.verdict.wrong[:WRONG_SHOWN]:
        log(f"WRONG: {wrong}")
    if len(report.verdict.wrong) > WRONG_SHOWN:
        log(f"{len(report.verdict.wrong) - WRONG_SHOWN} more are wrong")
    if options.page:
        write(report)
    sys.exit(bool(report.verdict.wrong))


if __name__ == "__main__":
    main()
