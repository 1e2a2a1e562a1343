"""docs/performance.md and its charts, from the results alone: `python -m tests.benchmarks.page` writes them anew."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import charts
from tests.benchmarks.results import Claim, Results, load
from tests.benchmarks.tables import median_of, sheets, told
from tests.docs import ROOT, table

DOCS = ROOT / "docs"

HEAD = """\
# Performance

What `make bench` measures, on real servers: a Kafka broker and a Redis beside the worker. Machines drift by 30 %
between minutes, so read ratios within one run and the spread; differences under 25 % are ties. This page is made from
[results.json](../tests/benchmarks/results.json) and nothing else; `make bench PARTS="claim growth"` measures parts
anew.
"""


class Section(NamedTuple):
    """How the page tells of a part."""

    title: str
    text: str


SECTIONS = {
    "claim": Section(
        "Compact metadata instead of whole resources",
        """\
Three ways to keep an open storm in Redis, each in a Redis of its own. **A**: the whole resource as JSON, with every
affected resource and the last 40 alerts in full, changed by a Lua script that decodes and encodes it. **B**: five
fields (pattern, count, resources, first, last) as JSON, likewise. **C**: stormfold's fold, in polls of 5,000 alerts
about 200 storms; its latency is the time to merge and fold a poll, divided by its alerts. An alert that comes alone
pays for a call of its own, as in A and B: last column. Serialising in A and B is the storm's JSON by msgspec, the
fastest there is for Python; in C it is an alert's share of the one argument of the call, and deserialising its share of
decoding and merging the poll.

When Redis is full, it refuses: A and B have then lost the alert unless their client keeps it; C's worker waits and the
alerts stay in Kafka. Churn opens storms of all sizes in every window and closes nine of ten.
""",
    ),
    "throughput": Section(
        "Throughput",
        """\
A backlog of alerts of 450 bytes in 300 groups, 12 partitions, is there when a worker is let go. Worker, broker and
Redis share the cores, so wall time says what they do together, and CPU time what each needs. Storms that are closed and
written have 15 affected resources.
""",
    ),
}


def page(results: Results) -> str:
    """The page."""
    parts = [HEAD]
    for name, section in SECTIONS.items():
        found = getattr(results, name)
        if found is None:
            continue
        parts.append(f"## {section.title}\n\n{section.text}\n{told(found.run)}\n")
        parts += [f"![{title}](performance/{file})\n" for file, title in CHARTS_OF.get(name, {}).items()]
        parts += [f"### {s.title}\n\n{table(s.heading, s.rows)}" for s in sheets(name, results)]
    return "\n".join(parts)


CHARTS_OF: Mapping[str, Mapping[str, str]] = {
    "claim": {"claim.svg": "Latency per alert, 15 affected resources", "memory.svg": "Redis memory of an open storm"},
}


def drawings(results: Results) -> dict[str, str]:
    """The charts by file name."""
    found: dict[str, str] = {}
    if results.claim:
        found |= dict(_claim(results.claim))
    return found


def _claim(claim: Claim) -> Iterator[tuple[str, str]]:
    titles = CHARTS_OF["claim"]
    yield "claim.svg", charts.bars(
        titles["claim.svg"], "µs, p50",
        {form.form: median_of(form.times.p50) for form in claim.forms if form.resources == 15},
    )  # fmt: skip
    names = list(dict.fromkeys(form.form for form in claim.forms))
    yield "memory.svg", charts.curves(
        titles["memory.svg"], "KB, by affected resources",
        {n: [(form.resources, form.bytes_each / 1e3) for form in claim.forms if form.form == n] for n in names},
    )  # fmt: skip


def write(results: Results, docs: Path = DOCS) -> None:
    """Writes the page and its charts."""
    folder = docs / "performance"
    folder.mkdir(exist_ok=True)
    (docs / "performance.md").write_text(page(results))
    for name, chart in drawings(results).items():
        (folder / name).write_text(chart)


if __name__ == "__main__":
    write(load())
