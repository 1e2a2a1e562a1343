"""JSON values as YAML in block style, for people and for every parser of YAML 1.1 and 1.2.

PyYAML's writer takes five times the CPU.
"""

import re
from typing import Any

from yaml.representer import SafeRepresenter

from stormfold.text import escape_unprintable, quote

MAX_SIMPLE_KEY = 1000
"""Longest key without a `?` before it (characters): parsers take 1,024."""

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9/._-]+")
"""Text that needs no quotes, unless it is one of `_WORDS`. None of it is a number or a date to any parser."""
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null"})
_floats = SafeRepresenter()


def dump(manifest: dict[str, Any]) -> str:
    """A manifest as a YAML document that gives back the same.

    Raises `TypeError` for a value that is not JSON, `UnicodeEncodeError` for text that is not Unicode, and
    `RecursionError` for one that is nested too deeply.
    """
    return _render(manifest, "").lstrip() + "\n"


def _render(value: Any, indent: str) -> str:
    """What follows `key:` or `-`: a scalar after a space, or lines that begin with `indent`."""
    if isinstance(value, str):
        return f" {_text(value)}"
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        # The dashes of a list are below the first letter of its key, as kubectl prints it.
        return "".join(
            f"\n{indent}{_key(key, indent)}{_render(item, indent if isinstance(item, list) else deeper)}"
            for key, item in value.items()
        )
    if isinstance(value, list) and value:
        return "".join(f"\n{indent}- {_render(item, deeper).lstrip()}" for item in value)
    return f" {_scalar(value)}"


def _key(key: str, indent: str) -> str:
    text = _text(key)
    return f"{text}:" if len(text) <= MAX_SIMPLE_KEY else f"? {text}\n{indent}:"


def _scalar(value: Any) -> str:
    """A value that is neither text nor has entries."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            # Parsers disagree on which exponents make a number.
            return str(_floats.represent_float(value).value)
        case dict():
            return "{}"
        case list():
            return "[]"
    raise TypeError(f"{type(value).__name__} is not JSON")


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    # Escaped, a surrogate would be accepted here and refused by every parser.
    text.encode()
    return escape_unprintable(quote(text))
