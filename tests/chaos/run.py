"""Runs load and faults against each other, judges what came out, and makes the table of docs/reliability.md.

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
from tests.chaos.faults import CLUSTER, DISK, FAULTS, FORGETFUL, PIPELINE
from tests.chaos.load import load
from tests.chaos.page import Outcome, Report, repeat, write
from tests.chaos.truth import now, validate
from tests.chaos.watch import SETTLED_MINUTES, RedisMonitor, growth
from tests.chaos.world import PARTITIONS, ROOT, WINDOWS, World, world
from tests.support.apiserver import binaries
from tests.support.gobuild import CannotBuild
from tests.support.servers import until

RATE = 3_000
"""Alerts a second."""
REST = 0.5
"""Seconds between brief turns."""
OVERLAP = 4.0
"""Longest (s) that the second of two faults waits after the first."""
WEIGHT = 3
"""A part of the pipeline is drawn so many times as often for a pair as one before or behind it."""
WRONG_SHOWN = 20
WATCHED = 1 / 3
"""Of the run, how long a worker must have lived for its memory to be told of."""
RECOVERY = 300.0
"""Seconds after which a pipeline that has not recovered never will. An API server that begins anew on a store of ten
thousand storms took two minutes on two busy cores until all had been listed once."""


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


def schedule(seed: int, names: Sequence[str]) -> Iterator[Turn]:
    """Each fault alone, in an order that is drawn, then pairs of faults about different parts, for ever.

    Those that sweep come first, and with them their pairs: one with each part of the pipeline, with a Redis that has
    forgotten something above all. Where there are no pairs, single faults.
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
    """Each fault alone, in an order that is drawn."""
    rng = random.Random(f"once {seed}")
    return [_turn(rng, name) for name in rng.sample(names, len(names))]


def excerpt(seed: int, names: Sequence[str], singles: int, pairs: int) -> list[Turn]:
    """Some of the faults alone, then some pairs; faults and rests are as short as they can be.

    One that sweeps takes long, so there is a single one: with a Redis that has forgotten something.
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
    """The one that lasts longest comes first, so that the next begins while it is there."""
    strikes = []
    for name in names:
        least, most = FAULTS[name].seconds
        strikes.append(Strike(name, 0.0, least if brief else rng.uniform(least, most), rng.randrange(2**32)))
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
    """Takes turns of the named faults, for so many minutes if they have no end; lets it all drain, and judges."""
    planned = load(seed, rate, loads(WINDOWS, "windows").windows, PARTITIONS)
    parts = {FAULTS[name].part for name in names}
    outcomes = []
    started = time.monotonic()
    async with world(folder, planned, disk=DISK in parts, cluster=CLUSTER in parts) as place:
        watch = RedisMonitor(place)
        tasks = [asyncio.create_task(place.producer.run()), asyncio.create_task(watch.run())]
        try:
            await until(lambda: watch.looks and not watch.looks[-1].problems, RECOVERY, "all workers are ready")
            ends = time.monotonic() + minutes * 60 if minutes else None
            for turn in turns:
                if ends and time.monotonic() > ends:
                    break
                outcomes.append(await _take(turn, place, watch, rate))
            place.producer.stopped.set()
            await tasks[0]
            tell(f"{place.producer.sent:,} alerts sent, {place.producer.failed:,} records given up")
            await until(
                lambda: watch.looks[-1].open == watch.looks[-1].unwritten == 0, 120, "all is closed and written"
            )
            lives = watch.lives((time.monotonic() - started) * WATCHED)
            verdict = await validate(place)
            verdict.wrong += [now(complaint) for life in lives for complaint in growth(life)]
            if minutes > 2 * SETTLED_MINUTES and not any(life.settled for life in lives):
                verdict.wrong.append(now("no worker lived for long enough to tell whether what it holds stays"))
            return Report(seed, tuple(names), rate, minutes, outcomes, verdict, lives)
        except BaseException:
            tell(f"seed {seed} failed; logs in {folder}")
            raise
        finally:
            while any(not task.done() for task in tasks):
                # What aiokafka is in the middle of may swallow it.
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=1)


async def _take(turn: Turn, place: World, watch: RedisMonitor, rate: int) -> Outcome:
    await asyncio.sleep(turn.rest)
    before, sent = watch.before(), place.producer.sent
    begin, began = time.time_ns() // 1_000_000, time.monotonic()
    begun = [asyncio.Event() for _ in turn.strikes]
    strikes = await asyncio.gather(
        *(_strike(strike, place, mine, begun) for strike, mine in zip(turn.strikes, begun, strict=True))
    )
    mended = max(strike.at for strike in strikes)
    settling = [strike.settling for strike in strikes if strike.settling]
    at = await watch.recovered(before, mended, rate, RECOVERY)
    await asyncio.gather(*settling)
    # What has settled since may have disturbed it once more.
    last = await watch.recovered(before, time.monotonic(), rate, RECOVERY) if settling else at
    faults = tuple(strike.fault for strike in turn.strikes)
    outcome = Outcome(
        faults, begin, time.time_ns() // 1_000_000, before.unread + place.producer.sent - sent,
        watch.longest_stop(began, last), at - mended, all(strike.struck for strike in strikes),
    )  # fmt: skip
    tell(f"{' + '.join(outcome.faults)}: {outcome.under_way:,} alerts under way, stopped for {outcome.stop:.1f} s, "
         f"recovered {outcome.recovery:.1f} s after {mended - began:.1f} s")  # fmt: skip
    return outcome


class Mended(NamedTuple):
    """A fault that was put right."""

    struck: bool
    """As far as it can tell."""
    at: float
    """Monotonic time (s) of that moment: what it still waits for comes after."""
    settling: asyncio.Task[None] | None
    """What is still waited for."""


async def _strike(strike: Strike, place: World, mine: asyncio.Event, begun: Sequence[asyncio.Event]) -> Mended:
    """One fault. It is there at least until each of the others has begun."""
    await asyncio.sleep(strike.after)
    tell(f"  {strike.fault} for {strike.seconds:.1f} s")
    mine.set()
    fault = FAULTS[strike.fault]
    async with fault.act(place, random.Random(strike.seed)) as proof:
        await asyncio.sleep(strike.seconds)
        for event in begun:
            await event.wait()
        struck = await proof() if proof else True
    at = time.monotonic()
    if not struck:
        tell(f"  {strike.fault} struck nothing")
    return Mended(struck, at, asyncio.create_task(fault.settles(place)) if fault.settles else None)


def possible() -> list[str]:
    """The faults that this machine allows."""
    missing = {}
    if subprocess.run([*ROOT, "true"], check=False).returncode:
        missing[DISK] = "only root can make a disk"
    try:
        binaries()
    except CannotBuild as error:
        missing[CLUSTER] = str(error)
    for part, why in missing.items():
        tell(f"without faults of the {part}: {why}")
    return [name for name in FAULTS if FAULTS[name].part not in missing]


def tell(text: str) -> None:
    """A line for whoever watches."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def _faults(text: str) -> list[str]:
    """In the order of `FAULTS`, however they are named: it is part of what the seed decides."""
    asked = set(text.split(","))
    if unknown := asked - FAULTS.keys():
        raise argparse.ArgumentTypeError(f"no such fault: {', '.join(sorted(unknown))}")
    return [name for name in FAULTS if name in asked]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--minutes", type=float, default=0.0, help="without it each fault has one turn")
    parser.add_argument("--faults", type=_faults, help=f"some of {','.join(FAULTS)}; what this machine allows")
    parser.add_argument("--page", action="store_true", help="write the table of docs/reliability.md")
    parser.add_argument("--rate", type=int, default=RATE, help="alerts a second")
    options = parser.parse_args()
    names = options.faults or possible()
    # That the broker is away is no news here.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    tell(repeat(options.seed, names, options.rate, options.minutes))
    folder = Path(tempfile.mkdtemp(prefix="stormfold-chaos-"))
    turns = schedule(options.seed, names) if options.minutes else once(options.seed, names)
    report = asyncio.run(run(options.seed, turns, names, folder, rate=options.rate, minutes=options.minutes))
    tell(f"{report.verdict.books} {report.verdict.late} late, {report.verdict.storms} storms, in sinks: "
         f"{report.verdict.written}; {report.verdict.excused}")  # fmt: skip
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
