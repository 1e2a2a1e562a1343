"""docs/performance.md and its charts, from the results alone: `python -m tests.benchmarks.page` writes them."""

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.benchmarks.charts import bars, curves
from tests.benchmarks.folding import POLL
from tests.benchmarks.reach import reach, saved
from tests.benchmarks.results import Claim, Growth, Peers, Results, Throughput, load
from tests.benchmarks.tables import cost, describe, sheets
from tests.docs import ROOT, table

DOCS = ROOT / "docs"

HEAD = """\
# Performance

The results of `make bench`, measured with a real Kafka broker and a real Redis on the same machine as the worker. The
speed of a machine varies by 30 % within minutes, so compare ratios within one run and look at the spread; differences
below 25 % are ties. This page is generated from [results.json](../tests/benchmarks/results.json); `make bench
PARTS="claim growth"` repeats single parts.

## Goals

The goals were set before the work on them began. Those that are not met are listed too, with the reason where it is
known.
"""


class Section(NamedTuple):
    """Title and introduction of a part."""

    title: str
    text: str


SECTIONS = {
    "claim": Section(
        "Compact metadata instead of whole resources",
        f"""\
This part compares three ways to store an open storm, each in a Redis of its own:

* **A**: the whole resource as JSON, with every affected resource and the last 40 alerts in full. A Lua script
  decodes, changes and encodes it.
* **B**: five fields (pattern, count, resources, first, last) as JSON, changed in the same way. It has names and one
  count.
* **C**: stormfold's fold, in polls of {POLL:,} alerts in 200 storms, 20 if they are of 10,000 resources. It has, for
  each fingerprint, the count, the newest time, whether it is resolved, and kind, namespace and name of its resource.

The latency of C is the time to merge and fold a poll, divided by its alerts. An alert that arrives alone costs a
whole call, as in A and B; see the last column. Serialising in A and B is the storm's JSON by msgspec, the fastest
serialiser for Python. In C it is an alert's share of the argument of the call, and deserialising is its share of
decoding and merging the poll.

A full Redis refuses writes. A and B lose the alert then, unless their client keeps it. In C the worker waits, and the
alerts stay in Kafka. Churn opens storms of all sizes in each window and closes nine of ten. Fragmentation is resident
memory divided by used memory, so it is high when little is in use.
""",
    ),
    "throughput": Section(
        "Throughput",
        """\
A worker starts with a backlog of alerts of 450 bytes in 300 groups and 12 partitions. Worker, broker and Redis share
the cores: the rate per second is what they reach together, and CPU time is what each needs. In the rows for closing
and emitting, storms have 15 affected resources. A file takes longer for some minutes after many files of the same
disk were deleted, because ext4 does not reuse their inodes at once.
""",
    ),
    "compression": Section(
        "The keyed topic on disk",
        """\
`STORMFOLD_KEYED_COMPRESSION` chooses the compression of `alerts-by-fingerprint`. A worker with all stages processes the
backlog of 20,000 series with each; its CPU time includes compression and decompression, and the bytes are those of the
broker's log segments. Batches of a backlog are large: under a light load they are smaller and compress less.
""",
    ),
    "profile": Section(
        "Where the time goes",
        """\
A worker with the backlog of 20,000 series, sampled from outside, by the file whose code runs. Every alert is read
twice, from `alerts` and from `alerts-by-fingerprint`, and aiokafka creates an object per record each time; its public
interface offers nothing cheaper.
""",
    ),
    "growth": Section(
        "Growth",
        f"""\
The cost of an alert should not depend on the number of alerts, groups, partitions or workers. Members and groups are
measured in fold alone, in polls of {POLL:,} alerts, without broker and intake. If all of 100,000 groups are active, a
poll has rarely two alerts of the same group, and each alert bears the cost of its group alone.
""",
    ),
    "latency": Section(
        "Latency and catching up",
        """\
The load is produced by another process on the same cores. Capacity is the rate at which one worker catches up a
backlog without a producer, so 90 % of it may be more than the cores can do with one. A storm is final `gap` and
`grace` after its last alert; its resource is a manifest in a folder. The load runs for three seconds before anything
is measured. The backlog to catch up covers ten minutes, and the time includes the start of the worker's process.
""",
    ),
    "million": Section(
        "A million open alerts",
        """\
Each alert has another label set, and none is closed. Redis may use 512 MB. Memory is measured 15 seconds after the last
alert: for 10 seconds the allocator keeps pages that it does not need.
""",
    ),
    "receive": Section(
        "Alerts over HTTP",
        """\
One process of `stormfold receive` takes Alertmanager's webhooks over connections that stay open, and answers each when
Kafka has acknowledged it. The sender runs on the same cores; CPU time is that of the receiver alone.
""",
    ),
    "peers": Section(
        "Other stream processors",
        """\
All process alerts of about 20,000 series, one per record, from 12 partitions of the same broker, in turns; each is
written as its own documentation recommends ([sources](../tests/benchmarks/peers)), is one process with one working
thread, and is warm, with all members in its windows, when it starts on its backlog. "Same work" is to keep, for each
group and session window, every fingerprint with its count, newest time and resource; stormfold also keeps statuses,
closes storms and writes them, and its members are in Redis, where any worker finds them. Programs that keep a window's
members as one value read and write the whole value for each alert, so they get fewer alerts where groups are large, and
slow ones fewer groups; those that keep them as objects on their own heap, or one by one in RocksDB, do not. Each is
compared with stormfold for groups of the same size, by the CPU time of an alert in the process and in Redis; the broker
has its own column.
""",
    ),
}


PEER_CURVES = {
    "stormfold, all features": "stormfold",
    "Kafka Streams, members, session": "Streams, session",
    "Kafka Streams, members, tumbling": "Streams, tumbling",
    "Apache Flink, members in RocksDB, session": "Flink, RocksDB",
}
"""Programs in the chart of the peers, by name, with their labels."""


def page(results: Results) -> str:
    """Returns the page."""
    goals = reach(results)
    parts = [HEAD, table(goals.heading, goals.rows)]
    pictures = titles(results)
    for name, section in SECTIONS.items():
        found = getattr(results, name)
        if found is None:
            continue
        parts.append(f"## {section.title}\n\n{section.text}\n{describe(found.run)}\n")
        if isinstance(found, Claim):
            parts.append(_savings(found))
        parts += [f"![{title}](performance/{file})\n" for file, title in pictures[name].items()]
        parts += [f"### {s.title}\n\n{table(s.heading, s.rows)}" for s in sheets(name, results)]
    return "\n".join(parts)


def _savings(claim: Claim) -> str:
    """Returns the sentence about the memory of storms as whole resources and in the fold."""
    less = saved(claim)
    sizes, shares = (
        " / ".join(words) for words in ([f"{n:,}" for n in less], [f"{100 * s:.0f}" for s in less.values()])
    )
    return f"An open storm of {sizes} affected resources takes {shares} % less memory in C than in A.\n"


class Drawing(NamedTuple):
    """One chart of a part."""

    part: str
    file: str
    title: str
    svg: str


def drawings(results: Results) -> Iterator[Drawing]:
    """Yields the charts of the measured parts."""
    if results.claim:
        yield from _claim(results.claim)
    if results.throughput:
        yield _throughput(results.throughput)
    if results.growth:
        yield from _growth(results.growth)
    if results.peers:
        yield from _peers(results.peers)


def titles(results: Results) -> dict[str, dict[str, str]]:
    """Returns the files and titles of the charts, by part."""
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


def _peers(peers: Peers) -> Iterator[Drawing]:
    costs = {
        label: [(peer.members, median(map(cost, peer.runs)) * 1e6) for peer in peers.peers if peer.name == name]
        for name, label in PEER_CURVES.items()
        if all(peer.runs for peer in peers.peers if peer.name == name)
    }
    shown = {label: curve for label, curve in costs.items() if len(curve) > 1}
    if shown:
        title = "CPU time of an alert with members kept: stormfold, Kafka Streams, Apache Flink"
        yield Drawing("peers", "peers.svg", title, curves(title, "µs, by members a group", shown))


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
