"""The pages about reliability agree with the tests and with the last run."""

import ast
import re

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.page import HEADING, PAGE
from tests.docs import ROOT

GUARANTEES = ROOT / "docs" / "guarantees.md"
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", GUARANTEES.read_text())


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_every_test_named_in_the_guarantees_exists(file: str, name: str) -> None:
    found = [node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if hasattr(node, "name")]
    assert name.startswith("test_") and name in found


def section(heading: str) -> str:
    """Returns a section of the guarantees with its subsections."""
    (found,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", GUARANTEES.read_text(), re.DOTALL | re.MULTILINE)
    return str(found)


def test_every_reference_to_a_test_has_the_usual_form() -> None:
    assert GUARANTEES.read_text().count("::") == len(NAMED)


@pytest.mark.parametrize("heading", ["Promised", "Assumed"])
def test_every_guarantee_names_a_test(heading: str) -> None:
    """Some assumptions cannot have a test; their rows state that."""
    heads, _, *rows = [line for line in section(heading).splitlines() if line.startswith("| ")]
    assert rows and heads.endswith("| shown by |")
    for row in rows:
        shown = row.split(" | ")[-1]
        assert row.count(" | ") == heads.count(" | "), row
        assert "::" in shown or (heading == "Assumed" and shown == "nothing to show |"), row


def test_every_exception_names_a_test() -> None:
    points, *cases = re.split(r"^### ", section("Not promised"), flags=re.MULTILINE)
    listed = re.split(r"^\* ", points, flags=re.MULTILINE)[1:]
    assert listed and cases
    assert [part for part in (*listed, *cases) if "::" not in part] == []


def test_the_reported_run_tried_every_fault_and_lost_nothing() -> None:
    """Every fault struck, and no row reports lost or duplicate alerts or wrong incidents."""
    text = PAGE.read_text()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()]
    (headings,) = (row for row in cells if row[0] == HEADING[0] and "tried" in row)
    rows = {
        row[0].split(":")[0].strip("` "): dict(zip(headings, row, strict=True))
        for row in cells
        if len(row) == len(headings)
    }
    assert rows.keys() >= {*FAULTS, "two of them at once", "**all**"}
    for name, row in rows.items():
        if name not in (HEADING[0], "---"):
            tried, *missed = map(int, re.findall(r"\d+", row["tried"]))
            assert tried > sum(missed), name
            assert (row["lost"], row["double"], row.get("wrong incidents", "0")) == ("0", "0", "0"), name
    assert "Counted exactly once: " in text and "Found wrong: 0." in text
