"""Matchers are parsed as by Alertmanager; routes, groups and silences follow from them."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormfold.routing import (
    DEFAULT_ROUTE,
    Matcher,
    MatcherError,
    Route,
    Silence,
    group_labels,
    parse_matchers,
    route_for,
)

GOLDEN = [json.loads(line) for line in (Path(__file__).parent / "testdata" / "matchers.jsonl").read_text().splitlines()]
"""A text and its matchers by Alertmanager 0.28.1 (`matcher/parse`): name, operator, value; null: refused."""

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
REGEX = st.sampled_from(["", "a|b", "api-.*", "(?i)x", r"\d+", 'say "x"', "line\nbreak", "é{1,2}", r"\pL"])
LABELS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from(["", "x", "y", "xy"]))


def matchers() -> st.SearchStrategy[Matcher]:
    name = TEXT.filter(bool)
    exact = st.builds(Matcher, name, st.sampled_from(["=", "!="]), TEXT)
    return exact | st.builds(Matcher, name, st.sampled_from(["=~", "!~"]), REGEX)


@pytest.mark.parametrize(("text", "wanted"), GOLDEN)
def test_matchers_are_parsed_as_by_alertmanager(text: str, wanted: list[list[str]] | None) -> None:
    """The same texts are accepted, with the same meaning, and the same are refused."""
    if wanted is None:
        with pytest.raises(MatcherError):
            parse_matchers(text)
    else:
        assert [[m.name, m.operator, m.value] for m in parse_matchers(text)] == wanted


@given(st.lists(matchers(), max_size=4), st.booleans(), st.booleans())
def test_rendered_matchers_read_back(wanted: list[Matcher], braces: bool, comma: bool) -> None:
    """Names and values may hold any text."""
    text = ", ".join(map(str, wanted)) + ("," if comma and wanted else "")
    assert parse_matchers(f"{{{text}}}" if braces else text) == tuple(wanted)


@given(st.text(st.sampled_from("ab=!~\"\\{}, nxuU0(*[\n'`é\ud800"), max_size=30) | st.text(max_size=30))
def test_any_text_is_parsed_or_refused_with_a_matcher_error(text: str) -> None:
    try:
        parse_matchers(text)
    except MatcherError as error:
        head, found, _ = str(error).partition(" at character ")
        position = str(error)[len(head) + len(found) :].split(" ")[0]
        assert not found or 1 <= int(position) <= len(text) + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foo bar", "expected =, !=, =~ or !~, found bar, at character 5 of foo bar"),
        ("foo=", "expected a value, found the end, at character 5 of foo="),
        ("{foo=bar", "expected a comma or }, found the end, at character 9 of {foo=bar"),
        ('foo="bar', 'missing the closing quote, at character 5 of foo="bar'),
        (r'foo=~"\d"', r'expected \\ for a backslash, or a known escape, at character 7 of foo=~"\d"'),
        ("foo=~a**", "bad regex: bad repetition operator (**) at character 2 of a**"),
        ('""=bar', 'expected a label name, found an empty one, in ""=bar'),
    ],
)
def test_errors_have_the_place_and_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(MatcherError) as caught:
        parse_matchers(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("matcher", "value", "matches"),
    [
        ("a=x", "x", True),
        ("a=x", "xx", False),
        ("a!=x", "xx", True),
        ("a=~x|y", "y", True),
        ("a=~x|y", "xy", False),
        ("a=~x", "x\n", False),
        ('a=~"x.y"', "x\ny", False),
        ("a!~x.*", "yx", True),
        ("a!~x.*", "xy", False),
        ('a=~".."', "é🙂", True),
    ],
)
def test_regexes_are_anchored(matcher: str, value: str, matches: bool) -> None:
    """A regex must match the whole value, and sees characters, not bytes."""
    assert parse_matchers(matcher)[0].matches({"a": value}) is matches


@given(st.sampled_from(["=", "!=", "=~", "!~"]), st.sampled_from(["", "x", "x|", ".+", ".*"]), LABELS)
def test_an_absent_label_is_an_empty_one(operator: str, value: str, labels: dict[str, str]) -> None:
    """A condition treats an absent label and an empty one alike."""
    matcher = Matcher("a", operator, value)
    assert matcher.matches(labels) is matcher.matches({"a": "", **labels})


def test_no_pattern_takes_exponential_time() -> None:
    """A pattern that backtracks without end in other engines takes milliseconds."""
    assert not parse_matchers("a=~(x+x+)+y")[0].matches({"a": "x" * 50_000})


def test_the_first_matching_route_wins() -> None:
    routes = (
        Route("both", parse_matchers("a=x,b=~y.*")),
        Route("first", parse_matchers("a=x")),
        DEFAULT_ROUTE,
    )
    assert [route_for(labels, routes).name for labels in ({"a": "x", "b": "yes"}, {"a": "x"}, {"b": "yes"}, {})] == [
        "both",
        "first",
        "default",
        "default",
    ]


@given(LABELS)
def test_group_labels_leave_out_absent_labels(labels: dict[str, str]) -> None:
    present = {name: value for name, value in labels.items() if value}
    assert group_labels(labels, Route("some", group_by=("a", "z"))) == {k: v for k, v in present.items() if k == "a"}
    assert group_labels(labels, Route("all", group_by=None)) == present
    assert group_labels(labels, Route("one", group_by=())) == {}
    assert group_labels(labels, Route("one", group_by=()), ["z"]) == {k: v for k, v in present.items() if k == "z"}


@pytest.mark.parametrize(
    ("starts", "ends", "active"),
    [
        (None, None, [True, True, True, True]),
        (10, None, [False, True, True, True]),
        (None, 20, [True, True, True, False]),
        (10, 20, [False, True, True, False]),
    ],
)
def test_a_silence_applies_from_its_start_until_before_its_end(
    starts: int | None, ends: int | None, active: list[bool]
) -> None:
    silence = Silence("lab", parse_matchers("a=x"), starts, ends)
    assert [silence.active(at) for at in (9, 10, 19, 20)] == active


def test_bare_names_stay_bare() -> None:
    """Only names that need quotes get them, so matchers look as they were written."""
    allowed = string.ascii_letters + string.digits + "_.:/-éß🙂"
    assert str(Matcher(allowed, "=", "x")) == f'{allowed}="x"'
    assert str(Matcher("a b", "!~", 'x\n"')) == '"a b"!~"x\\n\\""'
