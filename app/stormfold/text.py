"""Text for people: escapes for text of unknown origin, quoting, truncation, slugs and counts."""

import re

_NOT_SLUG = re.compile(r"[^a-z0-9]+")


def escape_unprintable(text: str) -> str:
    """The text with everything unprintable (controls, bidirectional marks, unusual spaces, …) escaped.

    Such characters could act on a terminal or mislead a reader.
    """
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def escape_surrogates(text: str) -> str:
    """The text with bytes that were not UTF-8 (decoded by `surrogateescape`) escaped, so that it can be encoded."""
    return text if text.isascii() else text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def pluralize(number: int, noun: str) -> str:
    """A count with its noun: `1 alert`, `1,200 alerts`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def quote(text: str) -> str:
    """The text in double quotes, escaped as in PromQL."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def truncate(text: str, size: int) -> str:
    """The text within `size` bytes of UTF-8; an ellipsis replaces what is cut off."""
    if len(text) * 4 <= size or len(raw := text.encode()) <= size:
        return text
    return raw[: size - 3].decode(errors="ignore") + "…"


def slug(text: str, default: str) -> str:
    """The beginning of a resource name: at most 40 of `a-z`, `0-9` and `-` of the text, or `default` if it has none."""
    return _NOT_SLUG.sub("-", text[:200].lower()).strip("-")[:40].strip("-") or default
