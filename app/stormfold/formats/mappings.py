"""Mappings: what a record that no built-in format takes must look like, and which alerts it becomes, in JMESPath.

A mapping is about one producer. `mappings.yaml` has those of the package; the configuration adds others before them.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain, islice
from typing import Any, NamedTuple

import msgspec
import yaml
from msgspec import structs

from stormfold.alert import Alert
from stormfold.decoding import Poison, decode_json
from stormfold.fingerprint import fingerprint
from stormfold.formats.expression import EVALUATION_ERRORS, Expression, Json, is_true, to_start, to_text

ALL = "..."
"""As the name of a label: every entry of an object."""
MAX_RECORD_BYTES = 1024 * 1024
"""Largest record that mappings are tried on: Kafka's default limit for a message."""
MAX_ITEMS = 2_000
"""Most items that `each` may find in a record."""
MAX_ENVELOPES = 3
"""Envelopes that may be around a record."""
_MAX_INHERITED, _MAX_INHERITED_TEXT = 64, 1_024
"""Most fields that an item of `each` has from the objects around it, and characters of each."""
_HEX = "0123456789abcdef"
_MAX_REASON = 256
"""Characters of an error's text."""

ParseRecord = Callable[[bytes], list[Alert]]
"""Parses the record that an envelope contains."""

_OPTIONAL = ("skip", "starts_at", "fingerprint", "unwrap")
"""Keys whose value is one expression."""
_any = msgspec.json.Decoder(Any)


@dataclass(frozen=True, slots=True)
class Status:
    """How a record marks its alert as firing or resolved."""

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
class AlertMapping:
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
            return is_true(self.when(record))
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
            raise Poison("contains no alerts", "each")
        return [item for item, _ in items]

    def _parse_item(self, item: Json, parse_record: ParseRecord) -> list[Alert]:
        if self.skip and _result("skip", self.skip, item, is_true):
            return []
        if self.unwrap:
            return [
                structs.replace(alert, mapping=f"{self.name}, {alert.mapping}" if alert.mapping else self.name)
                for alert in parse_record(_result("unwrap", self.unwrap, item, _to_record))
            ]
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
                starts_at=_result("starts_at", self.starts_at, item, to_start) if self.starts_at else None,
                mapping=self.name,
            )
        ]


class Mappings(NamedTuple):
    """Mappings in the order in which they are tried: a configuration's own, then those of the package."""

    own: tuple[AlertMapping, ...] = ()
    depth: int = 0
    """Envelopes around the record."""

    def find(self, record: Json) -> AlertMapping | None:
        """The first mapping that matches a decoded record."""
        return next((mapping for mapping in chain(self.own, presets()) if mapping.matches(record)), None)

    def inside(self) -> "Mappings":
        """The mappings for the record in an envelope; raises `Poison` if it is in too many."""
        if self.depth == MAX_ENVELOPES:
            raise Poison(f"in more than {MAX_ENVELOPES} envelopes")
        return self._replace(depth=self.depth + 1)


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
    """The texts that expressions give by name, without those that are not true: `a == 'x' && b` is false or b."""
    every: dict[str, str] = {}
    named: dict[str, str] = {}
    for name, expression in expressions:
        if name == ALL:
            entries = _result(key, expression, item)
            if isinstance(entries, dict):
                every |= {inner: _result(key, to_text, value) for inner, value in entries.items()}
        else:
            named[name] = _result(
                f"{key}.{name}", expression, item, lambda found: to_text(found) if is_true(found) else ""
            )
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


def from_document(document: dict[str, Json]) -> AlertMapping:
    """A mapping as it is written in YAML, of the right types; raises `ExpressionError`."""

    def named(key: str) -> tuple[tuple[str, Expression], ...]:
        return tuple((name, Expression(text)) for name, text in (document.get(key) or {}).items())

    status, each = document.get("status"), document.get("each") or []
    return AlertMapping(
        name=document["name"],
        when=Expression(document["when"]),
        labels=named("labels"),
        annotations=named("annotations"),
        status=status
        and Status(Expression(status["value"]), tuple(status["firing"]), tuple(status.get("resolved", ()))),
        each=tuple(map(Expression, [each] if isinstance(each, str) else each)),
        **{key: Expression(document[key]) for key in _OPTIONAL if document.get(key)},
    )


def to_document(mapping: AlertMapping) -> dict[str, Json]:
    """The mapping as it is written in YAML; `from_document` makes an equal one of it."""
    status = mapping.status
    document = {
        "name": mapping.name,
        "when": mapping.when.text,
        "each": [expression.text for expression in mapping.each],
        "labels": {name: expression.text for name, expression in mapping.labels},
        "annotations": {name: expression.text for name, expression in mapping.annotations},
        "status": status
        and {"value": status.value.text, "firing": list(status.firing), "resolved": list(status.resolved)},
        **{key: found and found.text for key in _OPTIONAL if (found := getattr(mapping, key))},
    }
    return {key: value for key, value in document.items() if value}


@functools.cache
def presets() -> tuple[AlertMapping, ...]:
    """The mappings of the package. Read when the first record needs them: compiling takes tens of milliseconds."""
    text = files("stormfold.formats").joinpath("mappings.yaml").read_text()
    return tuple(map(from_document, yaml.safe_load(text)))


def decode_record(value: bytes, refusal: Poison) -> Json:
    """The record as expressions see it; raises `Poison` if it is larger than mappings take."""
    if len(value) > MAX_RECORD_BYTES:
        raise Poison(f"too large for a mapping ({MAX_RECORD_BYTES:,} bytes); {refusal.reason}", refusal.place)
    return decode_json(_any, value)
