"""Routes, silences and the matchers that select alerts for them, in Alertmanager's syntax.

Regular expressions are RE2, fully anchored, as in Alertmanager; no pattern can take exponential time.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import re2

from stormfold.text import quote

_SPACE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"
"""The characters for which Go's `unicode.IsSpace` is true; Python's `\\s` matches more."""
_RESERVED = _SPACE + "{}!=~,\\\\\"'`"
_TOKEN = re.compile(
    rf"""[{_SPACE}]*(?:(?P<mark>[{{}},])|(?P<operator>=~|!=|!~|=)|(?P<quoted>"(?:[^"\\]|\\.)*")"""
    rf"|(?P<bare>[^{_RESERVED}]+)|(?P<end>\Z))",
    re.DOTALL,
)
_NEEDS_QUOTES = re.compile(rf"[{_RESERVED}]|\A\Z")
_ESCAPE = re.compile(
    rb"\\(?:(?P<char>[abfnrtv\\\"])|(?P<octal>[0-3][0-7]{2})|x(?P<hex>[0-9a-fA-F]{2})|u(?P<short>[0-9a-fA-F]{4})"
    rb"|U(?P<long>00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})|)|\n"
)
_CHARS = dict(zip(b'abfnrtv\\"', b'\a\b\f\n\r\t\v\\"', strict=True))


class MatcherError(ValueError):
    """A matcher with a syntax error; the message has the place and what was expected."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label; an absent label counts as empty. Raises `MatcherError` for a bad regex."""

    name: str
    operator: str
    """`=`, `!=`, `=~` or `!~`."""
    value: str
    _regex: Any = field(init=False, repr=False, compare=False)
    _negated: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_regex", _compiled(self.value) if self.operator.endswith("~") else None)
        object.__setattr__(self, "_negated", self.operator.startswith("!"))

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels satisfy the condition."""
        text = labels.get(self.name, "")
        found = text == self.value if self._regex is None else self._regex.fullmatch(text) is not None
        return found is not self._negated

    def __str__(self) -> str:
        name = quote(self.name) if _NEEDS_QUOTES.search(self.name) else self.name
        return f"{name}{self.operator}{quote(self.value)}"


@dataclass(frozen=True, slots=True)
class Route:
    """The rules for the alerts that all of `match` match."""

    name: str
    match: tuple[Matcher, ...] = ()
    group_by: tuple[str, ...] | None = ("alertname", "cluster")
    """Labels whose values distinguish groups; None for all labels."""
    storm_alerts: int = 10
    """Distinct qualifying alerts that make a storm."""
    storm_resources: int = 5
    """Distinct resources of qualifying alerts that make a storm."""
    storm_severity: str = "warning"
    """An alert qualifies if it fires, is at least this severe, …"""
    new_for: int | None = 900_000
    """… and began at most this long (ms) before its event time; None: whenever it began."""
    namespace: str = "storms"
    """Namespace of the storms' resources."""
    incidents: bool = True
    """Whether its storms join incidents."""


DEFAULT_ROUTE = Route("default")
"""Takes the alerts that no other route takes."""


@dataclass(frozen=True, slots=True)
class Silence:
    """Alerts that all of `match` match are counted but make no storm, from `starts` until before `ends` (ms)."""

    name: str
    match: tuple[Matcher, ...]
    starts: int | None = None
    ends: int | None = None

    def active(self, at: int) -> bool:
        """Whether it applies at event time `at` (ms)."""
        return (self.starts is None or self.starts <= at) and (self.ends is None or at < self.ends)


def all_match(match: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Whether the labels satisfy every condition."""
    for matcher in match:  # noqa: SIM110 - a generator takes twice as long, and every new series comes here
        if not matcher.matches(labels):
            return False
    return True


def route_for(labels: Mapping[str, str], routes: Iterable[Route]) -> Route:
    """The first route that matches the labels; the last one of a configuration matches everything."""
    for route in routes:
        if all_match(route.match, labels):
            return route
    raise ValueError("no route matches")


def group_labels(labels: Mapping[str, str], route: Route, scope: Iterable[str] = ()) -> dict[str, str]:
    """The labels that the route groups by, and those of `scope`, without absent and empty ones."""
    names = labels if route.group_by is None else (*route.group_by, *scope)
    return {name: labels[name] for name in names if labels.get(name)}


class _Token(NamedTuple):
    kind: str
    text: str
    column: int


def parse_matchers(text: str) -> tuple[Matcher, ...]:
    """Parses `{a="b", c=~"d.*"}`: braces are optional, names and values quoted or bare; raises `MatcherError`.

    Accepts the same texts as Alertmanager's UTF-8 matcher parser, with the same meaning.
    """
    tokens = deque(_scan(text))

    def take(expected: str, *kinds: str) -> _Token:
        if tokens[0].kind not in kinds:
            found = tokens[0].text or "the end"
            raise _error(text, tokens[0].column, f"expected {expected}, found {found}")
        return tokens.popleft()

    braces = tokens[0].text == "{"
    if braces:
        tokens.popleft()
    matchers: list[Matcher] = []
    expected = "a label name"
    while tokens[0].kind in ("bare", "quoted"):
        name = _unquoted(text, tokens.popleft())
        operator = take("=, !=, =~ or !~", "operator").text
        value = take("a value", "bare", "quoted")
        if not name:
            raise MatcherError(f"expected a label name, found an empty one, in {text}")
        matchers.append(Matcher(name, operator, _unquoted(text, value)))
        expected = "a comma"
        if tokens[0].kind != ",":
            break
        tokens.popleft()
        expected = "a label name"
    if braces:
        take(f"{expected} or }}", "}")
        expected = "the end"
    take(expected if expected == "the end" else f"{expected} or the end", "end")
    return tuple(matchers)


def _scan(text: str) -> Iterator[_Token]:
    position = 0
    kind = ""
    while kind != "end":
        token = _TOKEN.match(text, position)
        if token is None:
            position += len(text[position:]) - len(text[position:].lstrip())
            problem = "missing the closing quote" if text[position] == '"' else f"unexpected {text[position]}"
            raise _error(text, position + 1, problem)
        assert token.lastgroup
        part = token[token.lastgroup]
        kind = part if token.lastgroup == "mark" else token.lastgroup
        yield _Token(kind, part, token.start(token.lastgroup) + 1)
        position = token.end()


def _unquoted(text: str, token: _Token) -> str:
    """The text of a token, escapes resolved as in a Go string literal."""

    def character(escape: re.Match[bytes]) -> bytes:
        match escape.lastgroup:
            case "char":
                return bytes([_CHARS[escape["char"][0]]])
            case "octal":
                return bytes([int(escape["octal"], 8)])
            case "hex":
                return bytes([int(escape["hex"], 16)])
            case "short" | "long" as group:
                return chr(int(escape[group], 16)).encode()
            case _:
                column = token.column + len(escape.string[: escape.start()].decode())
                expected = "\\n for a line break" if escape[0] == b"\n" else "\\\\ for a backslash, or a known escape"
                raise _error(text, column, f"expected {expected}")

    if token.kind != "quoted":
        return token.text
    try:
        return _ESCAPE.sub(character, token.text.encode())[1:-1].decode()
    except UnicodeError:
        raise _error(text, token.column, "not valid UTF-8") from None


def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except UnicodeEncodeError:
        raise MatcherError("bad regex: not valid UTF-8") from None
    except re2.error as error:
        reason, _, part = error.args[0].decode(errors="replace").partition(": ")
        place = f" ({part}) at character {pattern.find(part) + 1}" if pattern != part in pattern else ""
        raise MatcherError(f"bad regex: {reason}{place} of {pattern}") from None


def _error(text: str, column: int, problem: str) -> MatcherError:
    return MatcherError(f"{problem}, at character {column} of {text}")
