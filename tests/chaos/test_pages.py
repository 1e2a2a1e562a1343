"""The pages about reliability say what the tests and runs say."""

import ast
import re

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.page import HEADING, PAGE
from tests.docs import ROOT

GUARANTEES = ROOT / "docs" / "guarantees.md"
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", GUARANTEES.read_text())


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_named_tests_exist(file: str, name: str) -> None:
    """A guarantee is shown by a test that is there."""
    found = [node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if hasattr(node, "name")]
    assert name in found


def test_every_promise_is_shown() -> None:
    """No line of the table of promises is without a test."""
    promises = GUARANTEES.read_text().split("## Promised")[1].split("## ")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ")][2:]
    assert rows and all("::" in row.split(" | ")[-1] for row in rows)


def test_the_table_has_every_fault() -> None:
    """The run that made the page tried each fault, each struck, and nothing was lost or doubled: in no row."""
    text = PAGE.read_text()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()]
    rows = {row[0].split(":")[0].strip("` "): dict(zip(HEADING, row, strict=False)) for row in cells if len(row) == 7}
    assert rows.keys() >= {*FAULTS, "two of them at once", "**all**"}
    for name, row in rows.items():
        if name not in (HEADING[0], "---"):
            tried, *missed = map(int, re.findall(r"\d+", row["tried"]))
            assert tried > sum(missed), name
            assert (row["lost"], row["double"]) == ("0", "0"), name
    assert "The books balance: " in text and "Found wrong: 0." in text
