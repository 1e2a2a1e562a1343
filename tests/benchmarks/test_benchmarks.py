"""`make bench` works, and the page about performance agrees with the results file."""

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from stormfold.config import Config
from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.redis import EmbeddedRedis
from stormfold.series import SeriesReader
from tests.benchmarks.__main__ import PARTS
from tests.benchmarks.bench import Bench
from tests.benchmarks.latency import PAST_MS
from tests.benchmarks.load import alert, backlog
from tests.benchmarks.page import DOCS, SECTIONS, drawings, page
from tests.benchmarks.profile import by_file
from tests.benchmarks.reach import goals
from tests.benchmarks.results import Peer, Peers, Results, Taken, Usage, Work, load, this_run
from tests.benchmarks.tables import peer_ratios, same_work
from tests.support import gobuild
from tests.support.alerts import Sent
from tests.support.apiserver import binaries


def test_the_page_is_generated_from_the_results() -> None:
    """`python -m tests.benchmarks.page` writes it again."""
    assert (DOCS / "performance.md").read_text() == page(load())


def test_the_charts_are_generated_from_the_results_and_there_are_no_others() -> None:
    found = {path.name: path.read_text() for path in (DOCS / "performance").iterdir()}
    assert found == {drawing.file: drawing.svg for drawing in drawings(load())}


def test_the_alerts_of_a_load_are_new_however_long_the_process_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old ones make no storms, so that a measurement of storms would never end."""
    later = time.time_ns() + 3_600_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: later)
    reader = SeriesReader(Config())
    one = Sent(time.time_ns() // 1_000_000, alert(0, 0))
    for sent in [one, *backlog(10, 10), *backlog(10, 10, spread=PAST_MS)]:
        ((keyed, parsed),) = reader.parse(sent.value, (), sent.time)
        assert parsed.starts_at is not None and 0 <= sent.time - parsed.starts_at <= keyed.certain_for


async def test_every_part_measures_something(
    request: pytest.FixtureRequest, kafka: EmbeddedKafka, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """All parts run at once with tiny sizes; the results survive the file and appear on the page.

    The profile is left out, because reading another process may need more rights than tests have.
    """
    gobuild.built(request.config, binaries)
    bench = Bench(kafka, redis_server, tmp_path, rounds=1, quick=True, progress=print)
    parts = [part for part in PARTS if part != "profile"]
    measured = await asyncio.gather(*(PARTS[part](bench) for part in parts))
    file = msgspec.json.encode(dict(zip(parts, measured, strict=True)))
    results = msgspec.json.decode(file, type=Results)
    assert [getattr(results, part) for part in parts] == measured
    assert all(f"## {SECTIONS[part].title}" in page(results) for part in parts)
    assert len(list(goals(results))) > 6
    assert results.million and results.million.listed == results.million.alerts
    assert results.claim and all(form.fit > 0 and min(form.times.p50) > 0 for form in results.claim.forms)
    assert results.throughput and all(runs[0].wall > 0 for runs in results.throughput.stages.values())
    assert results.latency and all(min(delay.present_p50) > 0 for delay in results.latency.delays)


def test_the_table_of_peers_says_what_a_program_leaves_out() -> None:
    assert same_work(Work(keeps_members=True, windows="session", exactly_once=True)) == "yes, exactly once"
    assert same_work(Work(keeps_members=True, windows="session", exactly_once=False)) == "yes, at least once"
    counting = Work(keeps_members=False, windows="tumbling", exactly_once=False)
    assert same_work(counting) == "no: counts, no members, tumbling windows, at least once"


def test_a_peer_is_compared_with_stormfold_for_groups_of_the_same_size() -> None:
    work = Work(keeps_members=True, windows="session", exactly_once=True)

    def peer(name: str, members: int, worker: float, redis: float = 0) -> Peer:
        return Peer(name, "", "", work, members, [Taken(10, 1, Usage(worker, 9, redis), [])])

    run = this_run(rounds=1, quick=True)
    found = Peers(run, [peer("us", 1, 1, 1), peer("us", 9, 4, 1), peer("them", 1, 4), peer("them", 9, 50)])
    assert peer_ratios(found) == {("us", 1): 1, ("us", 9): 1, ("them", 1): 2, ("them", 9): 10}


def test_a_sample_belongs_to_the_file_of_its_innermost_frame() -> None:
    stacks = "run (a.py:1);loop (b/c.py:2);<module> (app/x.py:3) 4\nrun (a.py:9);f (app/x.py:5) 2\nrun (a.py) 1\n"
    assert by_file(stacks) == {"app/x.py": 6, "a.py": 1}
