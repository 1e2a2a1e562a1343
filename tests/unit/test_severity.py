"""The meaning of words for severities."""

import pytest

from stormfold.config import Config
from stormfold.severity import Severities, Severity

ORDER = Config().severities


@pytest.mark.parametrize(
    ("order", "aliases", "word", "expected"),
    [
        (ORDER, {}, "Critical", Severity(0, "critical")),
        (ORDER, {}, "page", Severity(0, "critical")),
        (ORDER, {"page": "info"}, "PAGE", Severity(3, "info")),
        (ORDER, {}, "", Severity(2, "warning")),
        (ORDER, {}, "purple", Severity(2, "warning", known=False)),
        (("P1", "P2", "P3"), {}, "p2", Severity(1, "P2")),
        (("P1", "P2", "P3"), {}, "", Severity(2, "P3")),
        (("P1", "P2", "P3"), {}, "purple", Severity(2, "P3", known=False)),
    ],
)
def test_the_order_comes_before_aliases_and_those_before_the_usual_words(
    order: tuple[str, ...], aliases: dict[str, str], word: str, expected: Severity
) -> None:
    assert Severities(order, aliases)[word] == expected


@pytest.mark.parametrize(("word", "known"), [("", True), ("purple", False), ("warning", True)])
def test_absent_and_unknown_severities_rank_as_an_alias_for_warning(word: str, known: bool) -> None:
    """Otherwise alerts without a severity would never make a storm under an order of one's own."""
    assert Severities(("P1", "P2", "P3"), {"Warning": "p2"})[word] == Severity(1, "P2", known)
