"""`python -m tests.integration.web.metrics_page` writes docs/reference/metrics.md from the declared metrics."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from stormfold import metrics
from stormfold.kafka.consumer import END_INTERVAL

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
INTRODUCTION = f"""\
# Metrics

A worker serves `/metrics` at `STORMFOLD_HTTP_ADDRESS`, in Prometheus' text format or OpenMetrics. Counters begin at 0
when the process starts. Gauges with the labels `stage` and `partition` cover the partitions assigned to the worker at
the moment of the scrape. Lag is the number of records between the position of a stage and the end of the partition; the
worker reads the ends from Kafka every {END_INTERVAL:g} s, also while a stage waits. A gauge whose value is unknown is
not exported; values from Redis are exported for ten seconds after they were read.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
"""


def declared() -> Iterator[tuple[Metric, tuple[str, ...]]]:
    """Every metric and its labels, in the order of their declarations."""
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            yield next(iter(metric.describe())), metric._labelnames
        elif isinstance(metric, metrics.ScrapedGauge):
            yield next(metric.collect()), metric.labels
        elif isinstance(metric, metrics.ExpiringGauge):
            yield next(metric.collect()), ()


def names() -> Iterator[str]:
    """The names of their series in Prometheus."""
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    for family, _ in declared():
        yield from (f"{family.name}{ending}" for ending in endings.get(family.type, ("",)))


def page() -> str:
    """The content of the page."""
    return INTRODUCTION + "".join(_row(*metric) for metric in declared())


def _row(family: Metric, labels: tuple[str, ...]) -> str:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    quoted = ", ".join(f"`{label}`" for label in labels)
    return f"| `{name}` | {family.type} | {quoted} | {family.documentation} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
