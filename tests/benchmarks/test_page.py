"""The page about performance says what the results file says."""

from tests.benchmarks.page import DOCS, drawings, page
from tests.benchmarks.results import load


def test_page_is_made_from_the_results() -> None:
    """Nothing was added, left out or changed by hand; if not: `python -m tests.benchmarks.page` writes it anew."""
    assert (DOCS / "performance.md").read_text() == page(load())


def test_charts_are_made_from_the_results() -> None:
    """So are the charts, and there is none that the results don't bring forth."""
    found = {path.name: path.read_text() for path in (DOCS / "performance").iterdir()}
    assert found == drawings(load())
