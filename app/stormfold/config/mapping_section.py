"""The part of the configuration file that is about mappings."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from stormfold.config.fields import Section, Text, Texts, refuse
from stormfold.formats.expression import Expression, ExpressionError
from stormfold.formats.mappings import AlertMapping, from_document


def _expression(value: str) -> str:
    try:
        Expression(value)
    except ExpressionError as error:
        refuse(str(error))
    return value


def _list(value: object) -> object:
    return [value] if isinstance(value, str) else value


ExpressionText = Annotated[str, Field(min_length=1), AfterValidator(_expression)]


class MappingStatusSection(Section):
    value: ExpressionText
    """Gives the word."""
    firing: Annotated[Texts, BeforeValidator(_list), Field(min_length=1)]
    """Words with which an alert fires, compared without case: one text or a list."""
    resolved: Annotated[Texts, BeforeValidator(_list)] = ()
    """Words with which it is resolved. A word that is in neither list is an error, because a guess could begin or end
    an alert."""


class MappingSection(Section):
    name: Text
    """Unique; reasons of dead letters and `stormfold check` show it."""
    producer: Text | None = None
    """For people: whose records these are."""
    when: ExpressionText
    """The mapping reads an object for which this is true: not null, `false` or empty. An error counts as false."""
    each: Annotated[tuple[ExpressionText, ...], BeforeValidator(_list)] = ()
    """A list in the record, or several, the outermost first. All keys below are then about one item, which sees the
    numbers, booleans and short texts around it as `parent`."""
    skip: ExpressionText | None = None
    """An item for which this is true becomes no alert."""
    labels: dict[Text, ExpressionText] = Field(default={})
    """By name. `...` stands for all entries of an object; a label with a name of its own wins."""
    annotations: dict[Text, ExpressionText] = Field(default={})
    """By name, in the same way."""
    status: MappingStatusSection | None = None
    """Whether the alert fires. Absent: it does."""
    starts_at: ExpressionText | None = None
    """When the alert began: RFC 3339, or a number of seconds, milliseconds, microseconds or nanoseconds since 1970."""
    fingerprint: ExpressionText | None = None
    """A text that identifies the alert, if its labels change with its state. Absent: the labels do."""
    unwrap: ExpressionText | None = None
    """Instead of labels: the record that an envelope contains, as an object or a text of JSON. It is read like any
    other record."""

    @model_validator(mode="after")
    def _labels_or_unwrap(self) -> "MappingSection":
        if bool(self.labels) == bool(self.unwrap):
            refuse("expected one of labels and unwrap")
        return self

    def mapping(self) -> AlertMapping:
        document: dict[str, Any] = self.model_dump(exclude_none=True)
        return from_document(document)
