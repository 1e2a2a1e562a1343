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
    """The run that made the page tried each fault, and lost or doubled nothing."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.read_text().splitlines()]
    rows = {row[0].split(":")[0].strip("` "): dict(zip(HEADING, row, strict=False)) for row in cells if len(row) == 7}
    assert rows.keys() >= FAULTS.keys()
    for name in FAULTS:
        assert int(rows[name]["tried"]) > 0, name
        assert (rows[name]["lost"], rows[name]["double"]) == ("0", "0"), name
