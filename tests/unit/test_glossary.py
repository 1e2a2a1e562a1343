"""The glossary defines stormfold's own terms, and the pages use them."""

import re

import pytest

from tests.docs import ROOT

GLOSSARY = ROOT / "docs" / "glossary.md"
PAGES = [path for name in (".", "docs") for path in sorted((ROOT / name).glob("*.md" if name == "." else "**/*.md"))]
TERMS = dict(re.findall(r"^\*\*(.+?)\*\*: (.+)$", GLOSSARY.read_text(), re.MULTILINE))

CODE = re.compile(r"`[^`]*`")


def test_the_glossary_is_short() -> None:
    assert 15 <= len(TERMS) <= 25


@pytest.mark.parametrize("term", TERMS)
def test_each_term_has_one_sentence(term: str) -> None:
    assert re.fullmatch(r"[A-Z][^.]*\.", CODE.sub("", TERMS[term]))


@pytest.mark.parametrize("term", TERMS)
def test_each_term_is_used_in_another_page(term: str) -> None:
    word = re.compile(rf"\b{re.sub(' partition$', '', term)}", re.IGNORECASE)
    assert any(word.search(path.read_text()) for path in PAGES if path != GLOSSARY)
