"""The page of the metrics says what is declared."""

from stormfold import metrics
from tests.integration.web.metrics_page import PAGE, declared, page


def test_page_agrees_with_the_declarations() -> None:
    """Every metric is in its page; if not: `python -m tests.integration.web.metrics_page` writes the page anew."""
    assert PAGE.read_text() == page()


def test_nothing_is_exposed_undeclared() -> None:
    """What the registry holds is what the page lists, all of it under one prefix."""
    exposed = {family.name for family in metrics.REGISTRY.collect()}
    assert exposed == {family.name for family, _ in declared()}
    assert all(name.startswith("stormfold_") for name in exposed)
