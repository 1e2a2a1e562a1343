"""`make bench` works, and the page about performance says what the results file says."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from stormfold.local.kafka import EmbeddedKafka
from stormfold.local.redis import EmbeddedRedis
from tests.benchmarks.__main__ import PARTS
from tests.benchmarks.bench import Bench
from tests.benchmarks.page import DOCS, SECTIONS, drawings, page
from tests.benchmarks.profile import by_file
from tests.benchmarks.reach import goals
from tests.benchmarks.results import Results, load
from tests.support import gobuild
from tests.support.apiserver import binaries


def test_page_is_made_from_the_results() -> None:
    """Nothing was added, left out or changed by hand; if not: `python -m tests.benchmarks.page` writes it anew."""
    assert (DOCS / "performance.md").read_text() == page(load())


def test_charts_are_made_from_the_results() -> None:
    """So are the charts, and there is none that the results don't bring forth."""
    found = {path.name: path.read_text() for path in (DOCS / "performance").iterdir()}
    assert found == {drawing.file: drawing.svg for drawing in drawings(load())}


async def test_every_part(
    request: pytest.FixtureRequest, kafka: EmbeddedKafka, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """Every part measures something, side by side and tiny; the file gives it back, and the page has it.

    All but the profile: to look into another process may take more rights than tests have.
    """
    gobuild.built(request.config, binaries)
    bench = Bench(kafka, redis_server, tmp_path, rounds=1, quick=True, tell=print)
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


def test_profile() -> None:
    """Samples belong to the file of the innermost frame."""
    stacks = "run (a.py:1);loop (b/c.py:2);<module> (app/x.py:3) 4\nrun (a.py:9);f (app/x.py:5) 2\nrun (a.py) 1\n"
    assert by_file(stacks) == {"app/x.py": 6, "a.py": 1}
