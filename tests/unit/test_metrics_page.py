"""The metrics and their page in the documentation."""

from prometheus_client.metrics import MetricWrapperBase

from stormfold import metrics
from tests.integration.web.metrics_page import PAGE, declared, page


def test_the_page_lists_every_declared_metric() -> None:
    """Run `python -m tests.integration.web.metrics_page` to write the page again."""
    assert PAGE.read_text() == page()


def test_every_exposed_metric_is_declared() -> None:
    """All metrics have the prefix of stormfold, and constants are named like their metrics."""
    exposed = {family.name for family in metrics.REGISTRY.collect()}
    constants = {
        f"stormfold_{name.lower()}"
        for name, value in vars(metrics).items()
        if isinstance(value, MetricWrapperBase | metrics.ExpiringGauge | metrics.ScrapedGauge)
    }
    assert exposed == {family.name for family, _ in declared()} == constants
