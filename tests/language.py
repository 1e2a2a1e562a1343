"""Refuses words and phrases that are hard to read; `make lint` runs it: `python -m tests.language`.

A line that must have such a word, for example because it quotes it, is listed in `ALLOWED`.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUFFIXES = {".css", ".html", ".js", ".lua", ".md", ".py", ".toml", ".yaml", ".yml"}
OTHER_FILES = {".ci/run", ".importlinter", "Dockerfile", "Makefile"}
SKIPPED = ("tests/language.py", "tests/unit/testdata/")

FORBIDDEN = {
    r"all the same": "still",
    r"anew": "again",
    r"beside": "next to",
    r"by (?:itself|themselves)": "on its own",
    r"(?:comes?|came) to": "reaches",
    r"cured|farewell|patience": "recovered, a clean stop, a timeout",
    r"(?:goes|go|going|went) on": "continues",
    r"hardly": "barely, few",
    r"knows? better": "has newer data",
    r"likewise": "also",
    r"meanwhile": "until then, at the same time",
    r"so (?:long|many)(?! that\b)": "this long, this many",
    r"said|says": "prints, reports, states",
    r"surely": "always, or nothing",
    r"telling|tells?|told": "logs, reports, prints, returns",
    r"text that is none": "is not valid text",
    r"whoever": "the person or the program that is meant",
}
"""Pattern → better words."""

ALLOWED = {
    "tests/unit/test_glossary.py": "lists words that pages must not have",
}
"""File → the reason why it may have forbidden words."""


def files() -> Iterator[str]:
    """Yields the names of all tracked files with prose."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        path = ROOT / name
        prose = path.suffix in SUFFIXES or name in OTHER_FILES
        if prose and name not in ALLOWED and not name.startswith(SKIPPED) and path.is_file() and not path.is_symlink():
            yield name


def violations() -> Iterator[tuple[str, str]]:
    """Yields the pattern, and `file:line: text`, of each line with a forbidden word."""
    patterns = {pattern: re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE) for pattern in FORBIDDEN}
    for name in files():
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
            for pattern, compiled in patterns.items():
                if compiled.search(line):
                    yield pattern, f"{name}:{number}: {line.strip()}"


def main() -> None:
    """Prints each violation with better words; exits with 1 if there are any."""
    found = list(violations())
    for pattern, text in found:
        print(f"{text}\n    instead of /{pattern}/: {FORBIDDEN[pattern]}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
