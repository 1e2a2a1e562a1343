"""Mappings: what a record that no built-in format takes must look like, and which alerts it becomes, in JMESPath.

A mapping is about one producer. `mappings.yaml` has those of the package; the configuration adds others before them.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from itertools import chain, islice
from typing import Any

import msgspec
import yaml

from stormfold.alert import Alert
from stormfold.decoding import Poison, decode_json
from stormfold.fingerprint import fingerprint
from stormfold.formats.expression import EVALUATION_ERRORS, Expression, Json
from stormfold.times import to_milliseconds

ALL = "..."
"""As the name of a label: every entry of an object."""
MAX_RECORD_BYTES = 1024 * 1024
"""Largest record that mappings are tried on: Kafka's default limit for a message."""
MAX_ITEMS = 2_000
"""Most items that `each` may find in a record."""
_MAX_INHERITED, _MAX_INHERITED_TEXT = 64, 1_024
"""Most fields that an item of `each` has from the objects around it, and characters of each."""
_HEX = "0123456789abcdef"
_MAX_REASON = 256
"""Characters of an error's text."""
_MAX_EXACT = 2.0**53
_MAX_TIME = 1e14
"""In milliseconds: the year 5138."""

ParseRecord = Callable[[bytes], list[Alert]]
"""Parses the record that an envelope contains."""

_any = msgspec.json.Decoder(Any)


@dataclass(frozen=True, slots=True)
class Status:
    """How a record says that its alert fires or is resolved."""

    value: Expression
    firing: tuple[str, ...]
    resolved: tuple[str, ...] = ()
    """Words, compared without case."""

    def is_resolved(self, item: Json) -> bool:
        """Raises `Poison` for a word that is not listed: a guess could begin or end an alert."""
        word = _result("status", self.value, item, to_text).lower()
        if word in map(str.lower, self.resolved):
            return True
        if word in map(str.lower, self.firing):
            return False
        expected = " or ".join((*self.firing, *self.resolved))
        raise Poison(f"expected {expected[:96]}, got {word[:32]!r}", "status")


@dataclass(frozen=True, slots=True)
class Mapping:
    """How the records of one producer become alerts."""

    name: str
    when: Expression
    labels: tuple[tuple[str, Expression], ...] = ()
    """By name. `...` stands for all entries of an object; a label with a name of its own wins."""
    annotations: tuple[tuple[str, Expression], ...] = ()
    status: Status | None = None
    """None: every alert fires."""
    starts_at: Expression | None = None
    fingerprint: Expression | None = None
    """A text that identifies the alert, the same in its firing and its resolved record."""
    each: tuple[Expression, ...] = ()
    """Lists in the record, the outermost first; all the rest is about one item."""
    skip: Expression | None = None
    """True for an item that is not about an alert."""
    unwrap: Expression | None = None
    """Instead of labels: the record that an envelope contains, as JSON or as a text of JSON."""

    def matches(self, record: Json) -> bool:
        """Whether it is a record of this producer; an error in `when` means that it is not."""
        if not (isinstance(record, dict) and record.keys() >= self.when.required):
            return False
        try:
            return _is_true(self.when(record))
        except EVALUATION_ERRORS:
            return False

    def parse(self, record: Json, parse_record: ParseRecord) -> list[Alert]:
        """The alerts of a record that matches, none if all are skipped; raises `Poison` that names the mapping."""
        try:
            return list(chain.from_iterable(self._parse_items(record, parse_record)))
        except Poison as error:
            raise Poison(f"mapping {self.name}: {error}") from error

    def _parse_items(self, record: Json, parse_record: ParseRecord) -> Iterator[list[Alert]]:
        if not self.each:
            yield self._parse_item(record, parse_record)
            return
        for index, item in enumerate(self._items(record)):
            try:
                yield self._parse_item(item, parse_record)
            except Poison as error:
                raise error.prefixed(f"[{index}]") from error

    def _items(self, record: Json) -> list[Json]:
        items: list[tuple[Json, dict[str, Json]]] = [(record, {})]
        for expression in self.each:
            found: list[tuple[Json, dict[str, Json]]] = []
            for item, inherited in items:
                values = _result("each", expression, item)
                parent = _small_fields(item, inherited)
                values = values if isinstance(values, list) else [] if values is None else [values]
                if len(found) + len(values) > MAX_ITEMS:
                    raise Poison(f"more than {MAX_ITEMS:,} items", "each")
                found += [({**v, "parent": parent} if isinstance(v, dict) else v, parent) for v in values]
            items = found
        if not items:
            raise Poison("no alerts", "each")
        return [item for item, _ in items]

    def _parse_item(self, item: Json, parse_record: ParseRecord) -> list[Alert]:
        if self.skip and _result("skip", self.skip, item, _is_true):
            return []
        if self.unwrap:
            return parse_record(_result("unwrap", self.unwrap, item, _to_record))
        labels = _strings("labels", self.labels, item)
        if not labels:
            raise Poison("no labels")
        identity = _result("fingerprint", self.fingerprint, item, to_text) if self.fingerprint else ""
        if identity and (len(identity) != 16 or identity.strip(_HEX)):
            identity = fingerprint({self.name: identity})
        return [
            Alert(
                labels=_result("labels", msgspec.json.encode, labels),
                annotations=_result(
                    "annotations", msgspec.json.encode, _strings("annotations", self.annotations, item)
                ),
                resolved=self.status.is_resolved(item) if self.status else False,
                fingerprint=identity or None,
            )
        ]


def find(record: Json, mappings: Iterable[Mapping]) -> Mapping | None:
    """The first mapping that matches a decoded record."""
    return next((mapping for mapping in mappings if mapping.matches(record)), None)


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


def _is_true(value: Json) -> bool:
    """As in JMESPath: 0 is true."""
    return not (value is None or value is False or value in ("", [], {}))


def _result(
    key: str, evaluate: Callable[[Json], Json], item: Json, convert: Callable[[Json], Json] | None = None
) -> Json:
    """`convert(evaluate(item))`; raises any error as `Poison` at `key`."""
    try:
        found = evaluate(item)
        return convert(found) if convert else found
    except EVALUATION_ERRORS as error:
        # It may quote the value.
        reason = str(error).partition("\n")[0][:_MAX_REASON] or type(error).__name__
        raise Poison(reason, key) from error


def _strings(key: str, expressions: Iterable[tuple[str, Expression]], item: Json) -> dict[str, str]:
    """The texts that expressions give by name, without the empty ones."""
    every: dict[str, str] = {}
    named: dict[str, str] = {}
    for name, expression in expressions:
        if name == ALL:
            entries = _result(key, expression, item)
            if isinstance(entries, dict):
                every |= {inner: _result(key, to_text, value) for inner, value in entries.items()}
        else:
            named[name] = _result(f"{key}.{name}", expression, item, to_text)
    return {name: text for texts in (every, named) for name, text in texts.items() if name and text}


def _small_fields(item: Json, inherited: dict[str, Json]) -> dict[str, Json]:
    """The fields that the items of an object see as `parent`, those around it included. Only small ones: every item may
    read all of them."""
    fields = item.items() if isinstance(item, dict) else ()
    small = {
        name: value
        for name, value in fields
        if isinstance(value, int | float) or (isinstance(value, str) and len(value) <= _MAX_INHERITED_TEXT)
    }
    return dict(islice({**inherited, **small}.items(), _MAX_INHERITED))


def _to_record(value: Json) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict | list):
        return msgspec.json.encode(value)
    raise ValueError("expected an object, a list or a text of JSON")


def from_document(document: dict[str, Json]) -> Mapping:
    """A mapping as it is written in YAML, of the right types; raises `ExpressionError`."""

    def named(key: str) -> tuple[tuple[str, Expression], ...]:
        return tuple((name, Expression(text)) for name, text in (document.get(key) or {}).items())

    def optional(key: str) -> Expression | None:
        return Expression(document[key]) if document.get(key) else None

    status, each = document.get("status"), document.get("each") or []
    return Mapping(
        name=document["name"],
        when=Expression(document["when"]),
        labels=named("labels"),
        annotations=named("annotations"),
        status=status
        and Status(Expression(status["value"]), tuple(status["firing"]), tuple(status.get("resolved", ()))),
        starts_at=optional("starts_at"),
        fingerprint=optional("fingerprint"),
        each=tuple(map(Expression, [each] if isinstance(each, str) else each)),
        skip=optional("skip"),
        unwrap=optional("unwrap"),
    )


@functools.cache
def presets() -> tuple[Mapping, ...]:
    """The mappings of the package. Read when the first record needs them: compiling takes tens of milliseconds."""
    text = files("stormfold.formats").joinpath("mappings.yaml").read_text()
    return tuple(map(from_document, yaml.safe_load(text)))


def decode_record(value: bytes) -> Json:
    """The record as expressions see it; raises `Poison` if it is larger than mappings take."""
    if len(value) > MAX_RECORD_BYTES:
        raise Poison(
            f"no built-in format, and for a mapping too large: {len(value):,} bytes, at most {MAX_RECORD_BYTES:,}"
        )
    return decode_json(_any, value)
