"""Reads the configuration file. Every problem is reported as `file:line:column: key: what was expected`."""

import difflib
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from stormfold.config.model import Config
from stormfold.config.schema import ConfigFile
from stormfold.errors import ActionRequired

MAX_ALIASED = 10_000
"""Most values that YAML aliases may expand to, nested ones included: a few lines could expand to billions."""


class ConfigError(ActionRequired):
    """The configuration file cannot be used."""

    def __init__(self, problems: list[str], name: str) -> None:
        more = len(problems) - 1
        hint = f"`stormfold check {name}` shows {more} more like this." if more else None
        super().__init__(problems[0], hint)
        self.problems = problems
        """All problems, one line each: `file:line:column: key: what was expected`."""


def load(path: Path | None) -> Config:
    """Reads a file; None gives the defaults. Raises `ConfigError`."""
    if path is None:
        return Config()
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
    root, data = _parse_yaml(text, name)
    if root is None or data is None:
        return Config()
    try:
        return ConfigFile.model_validate(data).config()
    except ValidationError as error:
        keys: _Keys = {}
        found = [(_position(root, problem, keys), _message(problem)) for problem in error.errors(include_url=False)]
        lines = [f"{name}:{line}:{column}: {message}" for (line, column), message in sorted(found)]
        raise ConfigError(lines, name) from None


def _parse_yaml(text: str, name: str) -> tuple[yaml.Node | None, Any]:
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        sizes: dict[yaml.Node, int] = {}
        if root is not None and _expanded_size(root, sizes) - len(sizes) > MAX_ALIASED:
            raise ConfigError([f"{name}: aliases stand for more than {MAX_ALIASED:,} values"], name)
        return root, None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError([f"{name}{place}: {error.problem or error.context}"], name) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{name}: not YAML: {' '.join(str(error).split())}"], name) from None
    except RecursionError:
        raise ConfigError([f"{name}: not a configuration: nested too deeply"], name) from None


def _expanded_size(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Number of values with aliases expanded. Each node is visited once; one that contains itself recurses forever."""
    if node not in known:
        inner = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        children = () if isinstance(node, yaml.ScalarNode) else inner
        known[node] = 1 + sum(_expanded_size(child, known) for child in children)
    return known[node]


class _Loader(yaml.SafeLoader):
    """Knows text, null, lists and mappings. Plain scalars other than null stay text (a severity may be called `no`).

    Refuses duplicate keys, and text that is not valid Unicode.
    """

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
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.composer.ComposerError(None, None, f"duplicate key {key.value!r}", key.start_mark)
                seen.add((key.tag, key.value))
        return node


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
"""Messages by pydantic's error type; other types keep pydantic's message."""


def _path(problem: ErrorDetails) -> tuple[str | int, ...]:
    return (*problem["loc"], *problem.get("ctx", {}).get("at", ()))


def _message(problem: ErrorDetails) -> str:
    path = _path(problem)
    key = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key, {_suggest(path)}"
    expected = _EXPECTED.get(problem["type"])
    text = expected.format(**problem.get("ctx", {})) if expected else problem["msg"]
    if isinstance(problem["input"], str) and problem["type"] != "stormfold":
        text += f", found {problem['input']!r}"
    return ": ".join(filter(None, [key, text]))


def _suggest(path: tuple[str | int, ...]) -> str:
    """The known key that resembles an unknown one, or all known keys."""
    section: Any = ConfigFile
    for step in path[:-1]:
        if isinstance(step, str):
            annotation = section.model_fields[step].annotation
            section = next(iter(get_args(annotation)), annotation)
    near = difflib.get_close_matches(str(path[-1]), section.model_fields, n=1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(section.model_fields)}"


_Keys = dict[yaml.Node, dict[str, tuple[yaml.Node, yaml.Node]]]
"""Mapping node → its keys as text → key node and value node."""


def _position(root: yaml.Node, problem: ErrorDetails, keys: _Keys) -> tuple[int, int]:
    """Line and column, from 1, of the unknown key or the wrong value, or else of the innermost node that exists."""
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
