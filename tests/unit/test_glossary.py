"""The glossary defines stormfold's own terms, and the pages use them."""

import re

import pytest

from tests.docs import ROOT

GLOSSARY = ROOT / "docs" / "glossary.md"
PAGES = [path for name in (".", "docs") for path in sorted((ROOT / name).glob("*.md" if name == "." else "**/*.md"))]
TERMS = dict(re.findall(r"^\*\*(.+?)\*\*: (.+)$", GLOSSARY.read_text(), re.MULTILINE))

CODE = re.compile(r"<!-- from .+? -->.*?<!-- end -->|^```.*?^```$|`[^`]*`|\]\([^)]*\)", re.DOTALL | re.MULTILINE)
"""Generated blocks, code and targets of links: names that are part of a format, and text that is written elsewhere."""

RETIRED = {
    "state version": r"\bepochs?\b(?<!since the epoch)(?<!Unix epoch)",
    "late policy, or minimum": r"\bfloors?\b",
    "partition pair": r"\bcells?\b",
    "source position": r"\borigins?\b",
    "reader": r"\btails?\b",
    "session": r"\bruns? that goes on\b",
    "problem": r"\btroubles?\b",
    "hint": r"\badvices?\b",
    "again": r"\banew\b",
    "next to": r"\bbeside\b",
    "until then": r"\bmeanwhile\b",
    "nothing": r"\bsurely\b",
    "still": r"\ball the same\b",
    "barely": r"\bhardly\b",
    "also": r"\blikewise\b",
    "log, report, print or return": r"\b(tells|told|telling)\b",
    "continue": r"\b(goes|go|went|going) on\b",
}
"""What to write instead, and the word that it replaces."""


def prose(text: str) -> str:
    """The sentences of a page."""
    return CODE.sub("", text)


def test_the_glossary_is_short() -> None:
    assert 15 <= len(TERMS) <= 30


@pytest.mark.parametrize("term", TERMS)
def test_each_term_has_one_sentence(term: str) -> None:
    assert re.fullmatch(r"[A-Z][^.]*\.", CODE.sub("", TERMS[term]))


@pytest.mark.parametrize("term", TERMS)
def test_each_term_is_used_in_another_page(term: str) -> None:
    word = re.compile(rf"\b{re.sub(' partition$', '', term)}", re.IGNORECASE)
    assert any(word.search(path.read_text()) for path in PAGES if path != GLOSSARY)


@pytest.mark.parametrize("instead", RETIRED)
def test_retired_words_are_not_used(instead: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in PAGES
        for match in re.finditer(RETIRED[instead], prose(path.read_text()), re.IGNORECASE)
    ]
    assert not found, f"write {instead!r}: {found}"
