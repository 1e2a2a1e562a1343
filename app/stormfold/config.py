"""What stormfold should make of alerts: the YAML file of windows, routes and silences, checked and typed.

Times in `Config` are milliseconds. What is wrong with a file is said with its line, key and what was expected.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from stormfold.errors import ActionRequired
from stormfold.resource import RESOURCE_LABELS
from stormfold.routing import DEFAULT_ROUTE, Matcher, MatcherError, Route, Silence, parse_matchers
from stormfold.storm import AggregateClass
from stormfold.window import Windows

ALL_LABELS = "..."
"""In `group_by`: every label, so that each label set is a group of its own."""

MAX_ALIASED = 10_000
"""Most values that aliases may stand for, those in them included: a few lines could stand for billions."""
_DAY = 86_400_000
_UNITS = {"y": 365 * _DAY, "w": 7 * _DAY, "d": _DAY, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_SHOWN_UNITS = ("h", "m", "s", "ms")
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,9}}){unit})?" for unit in _UNITS))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


_WINDOWS = Windows()


class ConfigError(ActionRequired):
    """The configuration file can't be used."""

    def __init__(self, problems: list[str], name: str) -> None:
        more = len(problems) - 1
        hint = f"`stormfold check {name}` shows {more} more like this." if more else None
        super().__init__(problems[0], hint)
        self.problems = problems
        """All that is wrong, one line each: `file:line:column: key: what was expected`."""


@dataclass(frozen=True, slots=True)
class Config:
    """The meaning of alerts, as checked. `Config()` is what holds without a file."""

    windows: Windows = _WINDOWS
    idle_timeout: int = 900_000
    routes: tuple[Route, ...] = (DEFAULT_ROUTE,)
    """In order; the last one fits every alert."""
    silences: tuple[Silence, ...] = ()
    severity_label: str = "severity"
    severities: tuple[str, ...] = ("critical", "error", "warning", "info", "none")
    """Highest first; anything else counts as the last."""
    resource_labels: tuple[tuple[str, str], ...] = RESOURCE_LABELS
    """Label and kind of the resource that it names; the first label present counts."""
    max_resources: int = 1_000
    max_fingerprints: int = 10_000
    max_groups: int = 100_000
    publish: tuple[AggregateClass, ...] = ("Storm",)
    """Classes that become resources."""
    retention: int = 86_400_000
    max_storms: int = 2_000


_DEFAULT = Config()


def load(path: Path | None) -> Config:
    """Reads a file; None gives the defaults. Raises `ConfigError`."""
    if path is None:
        return _DEFAULT
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"], str(path)) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: expected UTF-8"], str(path)) from None
    return loads(text, str(path))


def loads(text: str, name: str) -> Config:
    """Reads YAML; `name` is the file's name in messages. Raises `ConfigError`."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        written: dict[yaml.Node, int] = {}
        if root is not None and _size(root, written) - len(written) > MAX_ALIASED:
            raise ConfigError([f"{name}: aliases stand for more than {MAX_ALIASED:,} values"], name)
        data = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError([f"{name}{place}: {error.problem or error.context}"], name) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{name}: not YAML: {' '.join(str(error).split())}"], name) from None
    except RecursionError:
        raise ConfigError([f"{name}: not a configuration: nested too deeply"], name) from None
    if root is None or data is None:
        return _DEFAULT
    try:
        return File.model_validate(data).config()
    except ValidationError as error:
        keys: _Keys = {}
        found = [(_mark(root, problem, keys), _said(problem)) for problem in error.errors(include_url=False)]
        lines = [f"{name}:{line}:{column}: {said}" for (line, column), said in sorted(found)]
        raise ConfigError(lines, name) from None


def dump(config: Config) -> str:
    """The configuration as YAML that `loads` reads back to the same."""
    return yaml.safe_dump(document(config), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def document(config: Config) -> dict[str, Any]:
    """The configuration in the shape of the file, with nothing left to defaults."""
    return {
        "windows": {
            "gap": duration(config.windows.gap),
            "grace": duration(config.windows.grace),
            "slice": duration(config.windows.slice_length),
        },
        "idle_timeout": duration(config.idle_timeout),
        "routes": [
            {
                "name": route.name,
                "match": [str(matcher) for matcher in route.match],
                "group_by": [ALL_LABELS] if route.group_by is None else list(route.group_by),
                "storm_when": {"alerts": route.storm_alerts, "resources": route.storm_resources},
                "namespace": route.namespace,
            }
            for route in config.routes
        ],
        "silences": [
            {
                "name": silence.name,
                "match": [str(matcher) for matcher in silence.match],
                **({} if silence.starts is None else {"starts": timestamp(silence.starts)}),
                **({} if silence.ends is None else {"ends": timestamp(silence.ends)}),
            }
            for silence in config.silences
        ],
        "severity": {"label": config.severity_label, "order": list(config.severities)},
        "resource_labels": dict(config.resource_labels),
        "limits": {
            "max_resources": config.max_resources,
            "max_fingerprints": config.max_fingerprints,
            "max_groups": config.max_groups,
        },
        "publish": list(config.publish),
        "retention": duration(config.retention),
        "max_storms": config.max_storms,
    }


def duration(milliseconds: int) -> str:
    """A duration as the file has it: `1m30s`."""
    parts = []
    left = milliseconds
    for unit in _SHOWN_UNITS:
        count, left = divmod(left, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def timestamp(milliseconds: int) -> str:
    """A time in RFC 3339, UTC."""
    return (_EPOCH + milliseconds * _MILLISECOND).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _size(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """How many values it is with aliases written out; each is looked at once, and one that holds itself has no end."""
    if node not in known:
        inner = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        below = () if isinstance(node, yaml.ScalarNode) else inner
        known[node] = 1 + sum(_size(one, known) for one in below)
    return known[node]


class _Loader(yaml.SafeLoader):
    """Knows text, null, lists and mappings: plain scalars stay text (so that a severity may be called `no`), all but
    null, and no tag makes anything else of them. Refuses duplicate keys, and text that is none."""

    yaml_constructors = {  # noqa: RUF012 - the base class declares it, without a type
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.endswith((":str", ":null", ":seq", ":map"))
    }
    yaml_implicit_resolvers = {  # noqa: RUF012 - the base class declares it, without a type
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        text = super().construct_scalar(node)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise yaml.constructor.ConstructorError(None, None, "half of a surrogate pair", node.start_mark) from None
        return text

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.composer.ComposerError(None, None, f"duplicate key {key.value!r}", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add((key.tag, key.value))
        return node


def _refuse(problem: str, *at: str | int) -> NoReturn:
    """Fails a validation; `at` leads from the validated value to the culprit."""
    raise PydanticCustomError("stormfold", "{problem}", {"problem": problem, "at": at})


def _duration(value: object) -> object:
    found = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if not found:
        return (
            value if isinstance(value, int) else _refuse(f"expected a duration such as 60s or 1m30s, found {value!r}")
        )
    result = sum(int(count) * _UNITS[unit] for unit, count in found.groupdict(default="0").items())
    return result if result <= _UNITS["y"] else _refuse(f"expected at most a year, found {value!r}")


def _time(value: object) -> object:
    try:
        moment = datetime.fromisoformat(str(value).upper())
        return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError):
        _refuse(f"expected a time such as 2026-01-31T12:00:00Z, found {value!r}")


def _matchers(value: object) -> object:
    parts = value if isinstance(value, list) else [value]
    result: list[Matcher] = []
    for index, part in enumerate(parts):
        at = (index,) if parts is value else ()
        if not isinstance(part, str):
            _refuse("""expected matchers such as 'severity="critical"' (quoted: braces would begin a mapping)""", *at)
        try:
            result += parse_matchers(part)
        except MatcherError as error:
            _refuse(str(error), *at)
    return tuple(result)


def _unique(values: Iterable[str], *key: str) -> None:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            _refuse(f"{value!r} is there twice", index, *key)
        seen.add(value)


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    _unique(values)
    return values


def _formed(pattern: str, expected: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            _refuse(f"expected {expected}, found {value!r}")
        return value

    return AfterValidator(check)


Duration = Annotated[int, BeforeValidator(_duration), Field(gt=0)]
Time = Annotated[int, BeforeValidator(_time)]
Matchers = Annotated[tuple[Matcher, ...], BeforeValidator(_matchers)]
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], AfterValidator(_distinct)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Kind = Annotated[str, _formed(r"[A-Z][A-Za-z0-9]{0,62}", "a kind such as Pod")]
RouteName = Annotated[
    # It becomes the value of a label.
    str,
    _formed(
        r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", "at most 63 letters, digits, -, _ or ., no sign first or last"
    ),
]
Namespace = Annotated[
    str,
    _formed(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "a namespace: at most 63 of a-z, 0-9 and -, no - first or last"),
]


class Part(BaseModel):
    """A mapping in the file. A key without a value counts as absent."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}


class WindowsPart(Part):
    gap: Duration = _DEFAULT.windows.gap
    """Longest silence inside a storm: it ends when nothing has come for so long."""
    grace: Annotated[int, BeforeValidator(_duration), Field(ge=0)] = _DEFAULT.windows.grace
    """How far the clocks of producers and workers may disagree; a storm is closed so much later. At most `slice`."""
    slice: Annotated[Duration, Field(validate_default=True)] = _DEFAULT.windows.slice_length
    """A storm that goes on is cut on the clock at multiples of this, so that nobody waits for its end to hear of it. A
    multiple of `gap`, at least twice it."""

    @field_validator("slice")
    @classmethod
    def _holds(cls, value: int, info: ValidationInfo) -> int:
        gap, grace = info.data.get("gap"), info.data.get("grace")
        if gap and (value % gap or value < 2 * gap):
            _refuse(f"expected a multiple of gap ({duration(gap)}), at least twice it, found {duration(value)}")
        if grace and grace > value:
            _refuse(f"expected at least grace ({duration(grace)}), found {duration(value)}")
        return value


class StormWhenPart(Part):
    alerts: Count = DEFAULT_ROUTE.storm_alerts
    """Distinct firing alerts."""
    resources: Count = DEFAULT_ROUTE.storm_resources
    """Distinct resources of firing alerts."""


class RoutePart(Part):
    name: RouteName
    """Unique; the storms carry it. To rename a route is to begin new storms."""
    match: Matchers = ()
    """Conditions that must all hold, in Alertmanager's syntax: one text or a list. None at all fit every alert."""
    group_by: Texts = DEFAULT_ROUTE.group_by or ()
    """Labels whose values tell groups apart; `['...']` for all labels, `[]` for one group."""
    storm_when: StormWhenPart = StormWhenPart()
    """What makes a group of alerts a storm: either count reached."""
    namespace: Namespace = DEFAULT_ROUTE.namespace
    """Namespace of the storms' resources."""

    @field_validator("group_by")
    @classmethod
    def _all_or_some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if ALL_LABELS in value and len(value) > 1:
            _refuse(f"expected {ALL_LABELS!r} alone", value.index(ALL_LABELS))
        return value

    def route(self) -> Route:
        return Route(
            name=self.name,
            match=self.match,
            group_by=None if self.group_by == (ALL_LABELS,) else self.group_by,
            storm_alerts=self.storm_when.alerts,
            storm_resources=self.storm_when.resources,
            namespace=self.namespace,
        )


class SilencePart(Part):
    name: Text
    """Unique: what it is about."""
    match: Matchers
    """Conditions that must all hold, at least one."""
    starts: Time | None = None
    """First moment, by the alerts' event time; a time without offset is UTC. Absent: from ever."""
    ends: Time | None = None
    """The moment after the last. Absent: for ever."""

    @field_validator("match")
    @classmethod
    def _some(cls, value: tuple[Matcher, ...]) -> tuple[Matcher, ...]:
        return value or _refuse("expected at least one matcher: this one would silence every alert")

    @field_validator("ends")
    @classmethod
    def _after(cls, value: int | None, info: ValidationInfo) -> int | None:
        starts = info.data.get("starts")
        if value is not None and starts is not None and value <= starts:
            _refuse(f"expected a time after starts ({timestamp(starts)})")
        return value

    def silence(self) -> Silence:
        return Silence(self.name, self.match, self.starts, self.ends)


class SeverityPart(Part):
    label: Text = _DEFAULT.severity_label
    """Label that holds the severity."""
    order: Annotated[Texts, Field(min_length=1, max_length=256)] = _DEFAULT.severities
    """Values of that label, highest first; any other value, and none, counts as the last."""


class LimitsPart(Part):
    max_resources: Annotated[int, Field(ge=1, le=_DEFAULT.max_resources)] = _DEFAULT.max_resources
    """Most resources listed in one storm; the count of them stays exact. The resource's schema takes no more."""
    max_fingerprints: Count = _DEFAULT.max_fingerprints
    """Most distinct alerts told apart in one gap of a group; a storm with more within a gap says `truncated`, and its
    distinct counts are lower bounds."""
    max_groups: Count = _DEFAULT.max_groups
    """Most open groups; beyond it new ones fold into one overflow group per route."""


class File(Part):
    windows: WindowsPart = WindowsPart()
    """How alerts become storms in time; the same for all routes."""
    idle_timeout: Duration = _DEFAULT.idle_timeout
    """A partition of alerts that makes no progress for so long, while others do, no longer holds back the rest."""
    routes: tuple[RoutePart, ...] = ()
    """In order: the first that fits an alert takes it. If the last one has conditions, a route `default` with the
    defaults below follows it."""
    silences: tuple[SilencePart, ...] = ()
    """Alerts that are counted, but make no storm: their class is `Silenced`."""
    severity: SeverityPart = SeverityPart()
    """How bad an alert is; a storm has the highest of its alerts."""
    resource_labels: dict[Text, Kind] = dict(_DEFAULT.resource_labels)
    """Label and the kind of resource that it names; the first label present in an alert counts. Replaces the
    default as a whole."""
    limits: LimitsPart = LimitsPart()
    """Bounds on memory."""
    publish: Annotated[tuple[AggregateClass, ...], AfterValidator(_distinct)] = _DEFAULT.publish
    """Classes of storms that become resources: `Storm`, `Isolated`, `Silenced`. The storms topic has all."""
    retention: Duration = _DEFAULT.retention
    """Age at which a storm's resource is deleted, unless it is annotated `stormfold.dev/keep`."""
    max_storms: Count = _DEFAULT.max_storms
    """Most resources of storms in a namespace; the oldest go first."""

    @field_validator("routes")
    @classmethod
    def _all_reached(cls, value: tuple[RoutePart, ...]) -> tuple[RoutePart, ...]:
        _unique((route.name for route in value), "name")
        for index, (route, following) in enumerate(pairwise(value), 1):
            if not route.match:
                _refuse(f"{following.name!r} is never reached: {route.name!r} before it fits every alert", index)
        if value and value[-1].match:
            for index, route in enumerate(value):
                if route.name == DEFAULT_ROUTE.name:
                    _refuse(
                        "expected another name: this one is the last route's, which fits every alert", index, "name"
                    )
        return value

    @field_validator("silences")
    @classmethod
    def _named(cls, value: tuple[SilencePart, ...]) -> tuple[SilencePart, ...]:
        _unique((silence.name for silence in value), "name")
        return value

    def config(self) -> Config:
        routes = tuple(part.route() for part in self.routes)
        return Config(
            windows=Windows(self.windows.gap, self.windows.grace, self.windows.slice),
            idle_timeout=self.idle_timeout,
            routes=routes if routes and not routes[-1].match else (*routes, DEFAULT_ROUTE),
            silences=tuple(part.silence() for part in self.silences),
            severity_label=self.severity.label,
            severities=self.severity.order,
            resource_labels=tuple(self.resource_labels.items()),
            max_resources=self.limits.max_resources,
            max_fingerprints=self.limits.max_fingerprints,
            max_groups=self.limits.max_groups,
            publish=self.publish,
            retention=self.retention,
            max_storms=self.max_storms,
        )


_EXPECTED = {
    "missing": "this key is missing",
    "model_type": "expected a mapping",
    "dict_type": "expected a mapping",
    "tuple_type": "expected a list",
    "string_type": "expected text",
    "string_too_short": "expected text that is not empty",
    "too_short": "expected at least {min_length}",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "less_than_equal": "expected at most {le}",
    "literal_error": "expected {expected}",
    "stormfold": "{problem}",
}
"""By pydantic's error type; others say it in pydantic's words."""


def _path(problem: ErrorDetails) -> tuple[str | int, ...]:
    return (*problem["loc"], *problem.get("ctx", {}).get("at", ()))


def _said(problem: ErrorDetails) -> str:
    path = _path(problem)
    key = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key, {_known(path)}"
    expected = _EXPECTED.get(problem["type"])
    text = expected.format(**problem.get("ctx", {})) if expected else problem["msg"]
    found = (
        f", found {problem['input']!r}" if isinstance(problem["input"], str) and problem["type"] != "stormfold" else ""
    )
    return ": ".join(filter(None, [key, text + found]))


def _known(path: tuple[str | int, ...]) -> str:
    """What an unknown key should have been."""
    part: Any = File
    for step in path[:-1]:
        if isinstance(step, str):
            annotation = part.model_fields[step].annotation
            part = next(iter(get_args(annotation)), annotation)
    near = difflib.get_close_matches(str(path[-1]), part.model_fields, n=1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(part.model_fields)}"


_Keys = dict[yaml.Node, dict[str, tuple[yaml.Node, yaml.Node]]]
"""Mappings that were looked into: key as text → key and value."""


def _mark(root: yaml.Node, problem: ErrorDetails, keys: _Keys) -> tuple[int, int]:
    """Line and column, from 1, of the key (if it is unknown) or value that is wrong, or of what should hold it."""
    node, mark = root, root.start_mark
    for step in _path(problem):
        if isinstance(node, yaml.MappingNode):
            if node not in keys:
                keys[node] = {key.value: (key, value) for key, value in node.value}
            if step not in keys[node]:
                break
            key, node = keys[node][step]
            mark = key.start_mark if problem["type"] == "extra_forbidden" else node.start_mark
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            mark = node.start_mark
    return mark.line + 1, mark.column + 1
