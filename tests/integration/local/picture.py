"""`python -m tests.integration.local.picture` renders docs/demo.svg from a real run of `stormfold demo`."""

import html
import io
import re
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.integration.local.running import COLUMNS, on_terminal

PICTURE = Path(__file__).parents[3] / "docs" / "demo.svg"
_ELSEWHERE = re.compile(r"\s*(@font-face \{.*?\}|<!--.*?-->)", re.DOTALL)
"""Fonts to fetch and comments that rich writes into a picture."""
_ERASED = re.compile(r"(?:\r|\x1b\[(?:1A|2K|\?25[hl]))+")
"""Control sequences that erase the live picture and hide or show the cursor."""


def picture(shown: str) -> str:
    """An SVG of the terminal output: a moment with forming and closed storms, and the end."""
    *moments, end = _ERASED.split(shown.replace("\r\n", "\n"))
    moment = max(moments, key=lambda moment: min(moment.count("○ forming"), moment.count("● closed")))
    console = Console(file=io.StringIO(), record=True, width=COLUMNS, force_terminal=True, color_system="truecolor")
    for text in (moment.rstrip(), "", end.rstrip()):
        console.print(Text.from_ansi(text))
    svg = console.export_svg(title="stormfold demo", unique_id="demo")
    return _ELSEWHERE.sub("", svg).replace("font-family: Fira Code", "font-family: ui-monospace")


def lines(svg: str) -> Sequence[str]:
    """The lines of text of such a picture, with one space between words."""
    found: defaultdict[float, list[str]] = defaultdict(list)
    for y, text in re.findall(r'<text [^>]*\by="([\d.]+)" textLength[^>]*>([^<]*)</text>', svg):
        found[float(y)] += html.unescape(text).split()
    return [" ".join(words) for _, words in sorted(found.items())]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PICTURE.write_text(picture(on_terminal(Path(folder), "demo")), encoding="utf-8")
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")
