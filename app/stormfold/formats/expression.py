"""JMESPath expressions of bounded cost, with a few functions that JSON of alerts needs.

The cost of an expression is linear in the size of the record. JMESPath has no variables and no loops but projections,
so only what copies its input (a multi-select, a literal) multiplies; `Expression` limits the product of all copies.
"""

import json
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeAlias

import jmespath
import msgspec
from jmespath import functions
from jmespath.exceptions import JMESPathError
from jmespath.functions import signature
from jmespath.visitor import Options, TreeInterpreter

from stormfold.times import to_milliseconds

Json: TypeAlias = Any
"""A decoded JSON value."""

MAX_EXPRESSION = 1_000
"""Characters of an expression."""
MAX_DEPTH = 40
"""Nesting of an expression."""
MAX_COPIES = 64
"""How many times larger than its input the result of an expression may be."""
_LITERAL_PER_COPY = 8
"""A literal of this many characters counts as one more copy, because a projection repeats it for every element."""
_MAX_SEPARATORS = 64 * 1024
"""Characters of separators in the result of `join`: separator and list may both come from the record."""

_MAX_EXACT = 2.0**53
_MAX_TIME = 1e14
"""In milliseconds: the year 5138."""

EVALUATION_ERRORS: tuple[type[Exception], ...] = (
    JMESPathError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""Everything that an expression raises for values that it is not made for."""


class ExpressionError(ValueError):
    """This expression cannot be used."""


class Functions(functions.Functions):
    """JMESPath's own functions and more, which return null for what they are not made for."""

    @signature({"types": []})
    def _func_from_items(self, pairs: Json) -> Json:
        """`from_items([['a', 1]])` is `{"a": 1}`; entries that are not a pair of a name and a value are left out."""
        if not isinstance(pairs, list):
            return None
        return {
            pair[0]: pair[1]
            for pair in pairs
            if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and pair[0]
        }

    @signature({"types": []}, {"types": []})
    def _func_split(self, text: Json, separator: Json) -> Json:
        """`split('a:b:c', ':')` is `["a", "b", "c"]`."""
        return text.split(separator) if isinstance(text, str) and isinstance(separator, str) and separator else None

    @signature({"types": []}, {"types": []})
    def _func_split_once(self, text: Json, separator: Json) -> Json:
        """`split_once('a:b:c', ':')` is `["a", "b:c"]`."""
        return text.split(separator, 1) if isinstance(text, str) and isinstance(separator, str) and separator else None

    @signature({"types": []})
    def _func_trim(self, text: Json) -> Json:
        """The text without spaces at both ends."""
        return text.strip() if isinstance(text, str) else None

    @signature({"types": []})
    def _func_lower(self, text: Json) -> Json:
        """The text in lower case."""
        return text.lower() if isinstance(text, str) else None

    @signature({"types": []})
    def _func_from_json(self, text: Json) -> Json:
        """The value that a text of JSON contains."""
        try:
            return msgspec.json.decode(text) if isinstance(text, str) else None
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None

    @signature({"types": ["string"]}, {"types": ["array-string"]})
    def _func_join(self, separator: str, texts: list[str]) -> str:
        if len(separator) * len(texts) > _MAX_SEPARATORS:
            raise ValueError("join makes too long a text")
        return separator.join(texts)


_FUNCTIONS: dict[str, Json] = Functions.FUNCTION_TABLE
_evaluate: Callable[[Json, Json], Json] = TreeInterpreter(Options(custom_functions=Functions())).visit
"""The interpreter keeps nothing between evaluations."""


class Expression:
    """A JMESPath expression, compiled. Raises `ExpressionError` if it is wrong, too long or multiplies its input."""

    __slots__ = ("_tree", "required", "text")

    def __init__(self, text: str) -> None:
        if len(text) > MAX_EXPRESSION:
            raise ExpressionError(f"expected at most {MAX_EXPRESSION:,} characters, found {len(text):,}")
        try:
            self._tree: Json = jmespath.compile(text).parsed
        except EVALUATION_ERRORS as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ExpressionError(f"expected a JMESPath expression: {reason}") from None
        copies = _copies(self._tree, 0)
        if copies > MAX_COPIES:
            raise ExpressionError(f"expected at most {MAX_COPIES} copies of the input, found {copies:,.0f}")
        self.text = text
        self.required = _required(self._tree)
        """Top-level fields without which the result is null, false or an error."""

    def __call__(self, value: Json) -> Json:
        """The result; raises one of `EVALUATION_ERRORS` if a function does not accept its arguments."""
        return _evaluate(self._tree, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"


_LEAVES = frozenset({"current", "field", "identity", "index", "slice"})
_PATHS = frozenset({"index_expression", "subexpression"})
_ALTERNATIVES = frozenset({"and_expression", "comparator", "expref", "key_val_pair", "not_expression", "or_expression"})
_RAISE_FOR_NULL = frozenset({"contains", "ends_with", "length", "starts_with"})
"""Functions whose first argument must not be null."""


def _copies(node: Json, depth: int) -> float:
    """How many times larger than its input the result of an expression is at most; its time has the same bound."""
    kind, children = node["type"], node["children"]
    if depth > MAX_DEPTH:
        raise ExpressionError(f"expected at most {MAX_DEPTH} levels of nesting")
    if kind in _LEAVES:
        return 1
    if kind in _PATHS and children[0]["type"] == "not_expression":
        # JMESPath reads it as `(!a).b`, which is always null.
        raise ExpressionError("`!` binds tighter than `.`: expected !(a.b), found !a.b")
    if kind == "literal":
        return max(1.0, len(json.dumps(node["value"])) / _LITERAL_PER_COPY)
    parts = [_copies(child, depth + 1) for child in children]
    if kind in _ALTERNATIVES:
        return max(parts)
    if kind in ("multi_select_dict", "multi_select_list"):
        return sum(parts)
    if kind == "function_expression":
        _check_call(node["value"], len(children))
        by_expression = any(child["type"] == "expref" for child in children)
        # The quotes of a text in a text are escaped.
        return (math.prod(parts) if by_expression else max(1.0, sum(parts))) * (
            2 if node["value"] == "to_string" else 1
        )
    if kind == "filter_projection":
        base, right, condition = parts
        return base * max(right, condition)
    # All others give the result of one child to the next: a.b, a | b, a[0], a[], a[*].b, a.*.b.
    return math.prod(parts)


def _check_call(name: str, given: int) -> None:
    if name not in _FUNCTIONS:
        raise ExpressionError(f"unknown function {name}")
    parameters = _FUNCTIONS[name]["signature"]
    variadic = bool(parameters and parameters[-1].get("variadic"))
    if given < len(parameters) or (given > len(parameters) and not variadic):
        raise ExpressionError(f"function {name} takes {len(parameters)} arguments, found {given}")


def _required(node: Json) -> frozenset[str]:
    """The fields of `Expression.required`; fields of which this is not certain are left out."""
    kind, children = node["type"], node["children"]
    if kind == "field":
        return frozenset({node["value"]})
    if kind == "and_expression":
        return _required(children[0]) | _required(children[1])
    if kind == "or_expression":
        return _required(children[0]) & _required(children[1])
    if kind in _PATHS and all(map(_is_path, children[1:])):
        return _required(children[0])
    if kind == "comparator" and node["value"] == "eq":
        left, right = children
        if right["type"] == "literal" and right["value"] is not None:
            return _required(left)
    if kind == "function_expression" and node["value"] in _RAISE_FOR_NULL:
        return _required(children[0])
    return frozenset()


def _is_path(node: Json) -> bool:
    """Whether it gives null for null."""
    return node["type"] in _LEAVES or (node["type"] in _PATHS and all(map(_is_path, node["children"])))


def to_text(value: Json) -> str:
    """A value as a label has it: a whole number without a fraction, objects and lists as JSON; empty: absent."""
    if isinstance(value, str):
        return value
    if value is None or value in ([], {}):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT:
        value = int(value)
    return msgspec.json.encode(value).decode()


def to_start(value: Json) -> int | None:
    """The time that `starts_at` gives, in milliseconds since the Unix epoch.

    It is RFC 3339, or a number: seconds, or smaller units where it is too large. None if it is absent, not positive,
    without a zone or unreadable.
    """
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        return _from_rfc3339(value)
    for factor in (1e3, 1.0, 1e-3, 1e-6):
        if 0 < number * factor < _MAX_TIME:
            return int(number * factor)
    return None


def _from_rfc3339(text: Json) -> int | None:
    try:
        return max(to_milliseconds(datetime.fromisoformat(text)), 0) or None
    except (TypeError, ValueError, OverflowError):
        return None


def is_true(value: Json) -> bool:
    """As in JMESPath: 0 is true."""
    return not (value is None or value is False or value in ("", [], {}))
