"""Bytes that somebody else may have written: read, or refused with one error, whatever is wrong with them."""

from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T")
S = TypeVar("S")


class Malformed(ValueError):
    """These bytes are not what was expected."""


def read(decode: Callable[[S], T], raw: S) -> T:
    """`decode(raw)`, an msgspec decoder's; whatever it objects to, depth included, becomes `Malformed`."""
    try:
        return decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError) as error:
        raise Malformed(str(error)) from error
