"""`python -m tests.integration.web.metrics_page` writes docs/reference/metrics.md from the declared metrics."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from stormfold import metrics

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
INTRODUCTION = """\
# Metrics

A worker answers `/metrics` at `STORMFOLD_HTTP_ADDRESS`, in Prometheus' text format or OpenMetrics. Counts begin
with the process. What has labels `stage` and `partition` is told of the partitions that the worker has at the moment of
the scrape: lag is the records between the stage's position and the end of the partition, which the worker asks Kafka
for every second, whatever the stage waits for. A gauge that nothing is known of is absent: what Redis said is told
for ten seconds.

| metric | kind | labels | meaning |
| --- | --- | --- | --- |
"""


def declared() -> Iterator[tuple[Metric, tuple[str, ...]]]:
    """Every metric and its labels, in the order of their declarations."""
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase | metrics.Fresh | metrics.Age):
            (family,) = metric.describe() if isinstance(metric, MetricWrapperBase) else metric.collect()
            yield family, getattr(metric, "_labelnames", ())


def names() -> Iterator[str]:
    """The names under which Prometheus knows them."""
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    for family, _ in declared():
        yield from (f"{family.name}{ending}" for ending in endings.get(family.type, ("",)))


def page() -> str:
    """The page as it has to be."""
    return INTRODUCTION + "".join(_row(*metric) for metric in declared())


def _row(family: Metric, labels: tuple[str, ...]) -> str:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    quoted = ", ".join(f"`{label}`" for label in labels)
    return f"| `{name}` | {family.type} | {quoted} | {family.documentation} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
