"""Expressions of mappings: which are refused, what the functions beyond JMESPath do, and that none is slow or large."""

import contextlib
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormfold.formats.expression import EVALUATION_ERRORS, Expression, ExpressionError, to_text

SIZE = 250_000
"""Bytes of a large record."""


@pytest.mark.parametrize(
    ("text", "required"),
    [
        ("a", {"a"}),
        ("a.b[0].c", {"a"}),
        ("a && b.c", {"a", "b"}),
        ("a || b", set()),
        ("(a && b) || (a && c)", {"a"}),
        ("a == 'x' && b", {"a", "b"}),
        ("a == `null`", set()),
        ("a == b", set()),
        ("a != 'x'", set()),
        ("!a", set()),
        ("contains(a, 'x')", {"a"}),
        ("type(a) == 'null'", set()),
        ("a | type(@)", set()),
        ("a.type(@)", set()),
        ("@", set()),
        ("`1`", set()),
    ],
)
def test_required_fields(text: str, required: set[str]) -> None:
    """Only what is certain."""
    assert Expression(text).required == required


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected a JMESPath expression"),
        ("a.", "expected a JMESPath expression"),
        ("a.b c", "expected a JMESPath expression"),
        ("'a", "expected a JMESPath expression"),
        ("`{", "expected a JMESPath expression"),
        ("(" * 900, "expected a JMESPath expression"),
        ("a" * 1001, "expected at most 1,000 characters, found 1,001"),
        ("!" * 50 + "a", "expected at most 40 levels of nesting"),
        ("!a.b", "`!` binds tighter than `.`: expected !(a.b), found !a.b"),
        ("nothing(a)", "unknown function nothing"),
        ("contains(a)", "function contains takes 2 arguments, found 1"),
        ("lower(a, b)", "function lower takes 1 arguments, found 2"),
        ("|".join(["[@,@]"] * 7), "expected at most 64 copies of the input, found 128"),
        ("a[*].[" + ",".join(["@"] * 65) + "]", "expected at most 64 copies of the input, found 65"),
        ("map(&[@,@,@,@,@,@,@,@,@], a)[*].[@,@,@,@,@,@,@,@]", "expected at most 64 copies of the input, found 72"),
        ("map(&'" + "x" * 600 + "', a)", "expected at most 64 copies of the input, found 75"),
    ],
)
def test_an_expression_that_is_wrong_or_could_be_large_is_refused(text: str, reason: str) -> None:
    """At once, when it is read."""
    with pytest.raises(ExpressionError) as caught:
        Expression(text)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value", "result"),
    [
        ("from_items(a[*].[k, v])", {"a": [{"k": "x", "v": 1}, {"k": "y"}, {"v": 2}]}, {"x": 1, "y": None}),
        ("from_items(a)", {"a": [["x", 1], ["", 2], [3, 4], ["z"], "zz"]}, {"x": 1}),
        ("from_items(a)", {"a": "text"}, None),
        ("split(a, ':')", {"a": "x:y:z"}, ["x", "y", "z"]),
        ("split(a, '')", {"a": "x"}, None),
        ("split(a, ':')", {}, None),
        ("split_once(a, ':')", {"a": "x:y:z"}, ["x", "y:z"]),
        ("split_once(a, ':')", {"a": 1}, None),
        ("trim(a)", {"a": " x "}, "x"),
        ("lower(a)", {"a": "ÄX"}, "äx"),
        ("lower(a)", {"a": None}, None),
        ("from_json(a).b", {"a": '{"b": [1]}'}, [1]),
        ("from_json(a)", {"a": "{"}, None),
        ("from_json(a)", {"a": "[" * 100_000}, None),
        ("from_json(a)", {"a": {}}, None),
        ("join('/', a)", {"a": ["x", "y"]}, "x/y"),
    ],
)
def test_functions_beyond_jmespath(text: str, value: Any, result: Any) -> None:
    """They give null for what they are not made for."""
    assert Expression(text)(value) == result


@pytest.mark.parametrize(
    "text",
    [
        "join(a, list)",
        "list[*].[@, @, @, @] | [] | [].to_string(@)",
        "list[?@ == 'x'] | sort_by(list, &to_string(@))",
        "merge(@, @, @, @)",
        "to_string([to_string(@), to_string(@)])",
        "list[*].split(@, 'x')[] | from_items([*].[@, @])",
        "list[*].from_json('{}') | [?@ == `{}`]",
    ],
)
def test_an_expression_that_copies_takes_bounded_time_and_memory(text: str) -> None:
    """Twenty times a large record at most."""
    expression = Expression(text)
    record = {"a": "x" * (SIZE // 2), "list": ["x"] * (SIZE // 8)}
    tracemalloc.start()
    try:
        began = time.process_time()
        with contextlib.suppress(*EVALUATION_ERRORS):
            expression(record)
        assert time.process_time() - began < 5
        assert tracemalloc.get_traced_memory()[1] < 200 * SIZE
    finally:
        tracemalloc.stop()


PIECES = st.sampled_from(
    ["a", "b", '"c d"', "'x'", "`1`", "`[1,{}]`", "@", ".", "[", "]", "[]", "[*]", "[?", "[0]", "[::2]", "[::0]", "*",
     "{", "}", "(", ")", "|", "||", "&&", "!", "==", "<", ",", ":", "&", "to_string(", "join(", "sort_by(", "map(",
     "split(", "from_items(", "from_json(", "max_by(", "sum(", " ", "$", "\\", "`"]
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=12,
)


@settings(deadline=None, max_examples=500)
@given(st.lists(PIECES, max_size=14).map("".join) | st.text(max_size=10), values)
def test_any_text_is_an_expression_or_refused(text: str, value: object) -> None:
    """And an expression gives a result, or one of the errors that mappings expect."""
    try:
        expression = Expression(text)
    except ExpressionError as error:
        assert "\n" not in str(error)
        return
    with contextlib.suppress(*EVALUATION_ERRORS):
        to_text(expression(value))
