"""Types of values in the configuration file, and the base of its sections."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, NoReturn

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from stormfold.eventtime import MAX_EVENT_TIME
from stormfold.routing import Matcher, MatcherError, parse_matchers
from stormfold.times import YEAR, parse_duration, parse_timestamp

OFF: Final = "off"
ON: Final = "on"
"""`off` instead of a duration: no limit."""


def refuse(problem: str, *at: str | int) -> NoReturn:
    """Fails a validation; `at` is the path from the validated value to the wrong part of it."""
    raise PydanticCustomError("stormfold", "{problem}", {"problem": problem, "at": at})


def _duration(value: object) -> object:
    if isinstance(value, int):
        return value
    duration = parse_duration(value) if isinstance(value, str) else None
    if duration is None:
        refuse(f"expected a duration such as 60s or 1m30s, found {value!r}")
    return duration if duration <= YEAR else refuse(f"expected at most a year, found {value!r}")


def _duration_or_off(value: object) -> object:
    return None if value == OFF else _duration(value)


def _time(value: object) -> object:
    try:
        time = parse_timestamp(str(value).upper())
    except (ValueError, OverflowError):
        refuse(f"expected a time such as 2026-01-31T12:00:00Z, found {value!r}")
    return time if 0 <= time <= MAX_EVENT_TIME else refuse(f"expected a time from 1970 to 9999 (UTC), found {value!r}")


def _matchers(value: object) -> object:
    parts = value if isinstance(value, list) else [value]
    result: list[Matcher] = []
    for index, part in enumerate(parts):
        at = (index,) if parts is value else ()
        if not isinstance(part, str):
            refuse("""expected matchers such as 'severity="critical"' (quoted: braces would begin a mapping)""", *at)
        try:
            result += parse_matchers(part)
        except MatcherError as error:
            refuse(str(error), *at)
    return tuple(result)


def unique(values: Iterable[str], *key: str) -> None:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            refuse(f"{value!r} is there twice", index, *key)
        seen.add(value)


def distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    unique(values)
    return values


def _matching(pattern: str, expected: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            refuse(f"expected {expected}, found {value!r}")
        return value

    return AfterValidator(check)


Duration = Annotated[int, BeforeValidator(_duration), Field(gt=0)]
DurationOrZero = Annotated[int, BeforeValidator(_duration), Field(ge=0)]
DurationOrOff = Annotated[int | None, BeforeValidator(_duration_or_off)]
Time = Annotated[int, BeforeValidator(_time)]
Matchers = Annotated[tuple[Matcher, ...], BeforeValidator(_matchers)]
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], AfterValidator(distinct)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Kind = Annotated[str, _matching(r"[A-Z][A-Za-z0-9]{0,62}", "a kind such as Pod")]
RouteName = Annotated[
    # It becomes the value of a label.
    str,
    _matching(
        r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", "at most 63 letters, digits, -, _ or ., no sign first or last"
    ),
]
Namespace = Annotated[
    str,
    _matching(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "a namespace: at most 63 of a-z, 0-9 and -, no - first or last"),
]


class Section(BaseModel):
    """A mapping in the file. A key without a value counts as absent."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}
