"""docs/performance.md and its charts, from the results alone: `python -m tests.benchmarks.page` writes them anew."""

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.benchmarks.charts import bars, curves
from tests.benchmarks.reach import reach
from tests.benchmarks.results import Claim, Growth, Results, Throughput, load
from tests.benchmarks.tables import sheets, told
from tests.docs import ROOT, table

DOCS = ROOT / "docs"

HEAD = """\
# Performance

What `make bench` measures, on real servers: a Kafka broker and a Redis beside the worker. Machines drift by 30 %
between minutes, so read ratios within one run and the spread; differences under 25 % are ties. This page is made from
[results.json](../tests/benchmarks/results.json) and nothing else; `make bench PARTS="claim growth"` measures parts
anew.

## Reach

What was hoped for before anything was built, and what came of it.
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

B knows names and one count. C knows of every alert's fingerprint how often it came, when last, whether it is resolved,
and which resource of which namespace it is about: that is what its bytes are.

When Redis is full, it refuses: A and B have then lost the alert unless their client keeps it; C's worker waits and the
alerts stay in Kafka. Churn opens storms of all sizes in every window and closes nine of ten; fragmentation is the
resident memory over what is then used, so it is high where hardly anything is left.
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
    "profile": Section(
        "Where the time goes",
        """\
A worker at the backlog of 20,000 series, sampled from outside: whose own code runs, by file. Every alert is read twice,
from `alerts` and keyed, and each time aiokafka makes an object of the record; that can't be had for less through its
public interface.
""",
    ),
    "growth": Section(
        "Growth",
        """\
What an alert costs should not depend on how much there is. Storms and groups grow in fold alone, in polls of 5,000
alerts: there broker and intake have no part. Where all of 100,000 groups are active, hardly two alerts of a poll are
about the same one, and each pays for its group by itself.
""",
    ),
    "latency": Section(
        "Latency and catching up",
        """\
The load comes from one more process on the same cores. Capacity is the rate at which one worker takes up a backlog,
with nobody producing; so at 90 % of it there may be more to do than the cores can. A storm is final `gap` and `grace`
after its last alert; its resource is a manifest in a folder. The backlog to catch up covers ten minutes, and time runs
from the start of the worker's process.
""",
    ),
    "million": Section(
        "A million open alerts",
        "Each alert is of another label set, and none is closed. Redis may use 512 MB.\n",
    ),
    "peers": Section(
        "Other stream processors",
        """\
The same alerts (20,000 series in 300 groups, one a record, 12 partitions) on the same broker, in turns. Each is
written as its own documentation teaches ([sources](../tests/benchmarks/peers)), is one process with one thread at work,
is warm when it is let at its backlog, and counts alerts by group and window of five minutes: no fingerprints, no
resources, no states, all of which stormfold keeps. CPU an alert is the process' and Redis', not the broker's, which has
a column of its own.
""",
    ),
}


def page(results: Results) -> str:
    """The page."""
    goals = reach(results)
    parts = [HEAD, table(goals.heading, goals.rows)]
    pictures = titles(results)
    for name, section in SECTIONS.items():
        found = getattr(results, name)
        if found is None:
            continue
        parts.append(f"## {section.title}\n\n{section.text}\n{told(found.run)}\n")
        parts += [f"![{title}](performance/{file})\n" for file, title in pictures[name].items()]
        parts += [f"### {s.title}\n\n{table(s.heading, s.rows)}" for s in sheets(name, results)]
    return "\n".join(parts)


class Drawing(NamedTuple):
    """A chart of a part."""

    part: str
    file: str
    title: str
    svg: str


def drawings(results: Results) -> Iterator[Drawing]:
    """The charts of the parts that were measured."""
    if results.claim:
        yield from _claim(results.claim)
    if results.throughput:
        yield _throughput(results.throughput)
    if results.growth:
        yield from _growth(results.growth)


def titles(results: Results) -> dict[str, dict[str, str]]:
    """By part the charts' files, and their titles."""
    found: dict[str, dict[str, str]] = {name: {} for name in SECTIONS}
    for drawing in drawings(results):
        found[drawing.part][drawing.file] = drawing.title
    return found


def _claim(claim: Claim) -> Iterator[Drawing]:
    title = "Latency per alert, 15 affected resources"
    times = {form.form: median(form.times.p50) for form in claim.forms if form.resources == 15}
    yield Drawing("claim", "latency.svg", title, bars(title, "µs, p50", times))
    title = "Redis memory of an open storm"
    names = dict.fromkeys(form.form for form in claim.forms)
    sizes = {n: [(form.resources, form.bytes_each / 1e3) for form in claim.forms if form.form == n] for n in names}
    yield Drawing("claim", "memory.svg", title, curves(title, "KB, by affected resources", sizes))


def _throughput(found: Throughput) -> Drawing:
    title = "Alerts per CPU-second of the worker"
    loads = found.pipeline | {f"{stage} alone": found.stages[stage] for stage in ("intake", "fold")}
    rates = {name: median(taken.count / taken.cpu.worker for taken in runs) for name, runs in loads.items()}
    return Drawing("throughput", "throughput.svg", title, bars(title, "alerts", rates))


def _growth(growth: Growth) -> Iterator[Drawing]:
    for name, points in growth.curves.items():
        if len(points) < 3:
            continue
        title = f"Cost of an alert by {name}"
        kinds = {
            kind: [(point.size, median(getattr(point, kind.lower()))) for point in points]
            for kind in ("worker", "Redis", "broker")
        }
        shown = {kind: curve for kind, curve in kinds.items() if any(y for _, y in curve)}
        file = f"{re.sub('[^a-z0-9]+', '-', name)}.svg"
        yield Drawing("growth", file, title, curves(title, "CPU µs", shown))


def write(results: Results, docs: Path = DOCS) -> None:
    """Writes the page and its charts."""
    folder = docs / "performance"
    folder.mkdir(exist_ok=True)
    (docs / "performance.md").write_text(page(results))
    for old in folder.glob("*.svg"):
        old.unlink()
    for drawing in drawings(results):
        (folder / drawing.file).write_text(drawing.svg)


if __name__ == "__main__":
    write(load())
