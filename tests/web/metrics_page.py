"""The reference page of the metrics, made from their declarations: `python -m tests.web.metrics_page` writes it."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from app import metrics

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
INTRODUCTION = """\
# Metrics

A worker answers `/metrics` at `STORMFOLD_HTTP`, in Prometheus' text format or OpenMetrics, as asked for. Counts begin
with the process; lag is that of the partitions which the worker has at the moment of the scrape.

| metric | kind | labels | meaning |
| --- | --- | --- | --- |
"""


def declared() -> Iterator[MetricWrapperBase]:
    """Every metric, in the order of their declarations."""
    return (metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase))


def page() -> str:
    """The page as it has to be."""
    return INTRODUCTION + "".join(map(_row, declared()))


def _row(metric: MetricWrapperBase) -> str:
    (family,) = metric.describe()
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)
    return f"| `{name}` | {family.type} | {labels} | {family.documentation} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
