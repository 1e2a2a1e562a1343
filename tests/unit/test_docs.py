"""Reference pages agree with the code."""

from pathlib import Path

import pytest

from tests.docs import BLOCKS, ROOT, made, pages


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_pages_agree_with_the_code(path: Path) -> None:
    """Every setting and key is in its page, with its default; if not: `python -m tests.docs` writes the page again."""
    assert path.read_text() == made(path.read_text())


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_has_its_page(name: str) -> None:
    """Nothing that is made from code is left out of the pages."""
    assert any(f"<!-- from code: {name} -->" in path.read_text() for path in pages()), ROOT
