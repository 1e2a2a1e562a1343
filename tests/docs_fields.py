"""Fields of packed values, for the generated parts of pages."""

import ast
import inspect
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from stormfold.keyed_record import RESOLVED
from stormfold.merge import QUALIFIED
from stormfold.redis.layout import (
    ALERTS_UNIT,
    FINGERPRINT_BYTES,
    LONG_MEMBER,
    MAX_PREFIX,
    META_FIELD,
    MIN_PREFIX,
    PREFIX_HASH_BYTES,
    PREFIXED,
    SHORT_ALERTS,
    SHORT_BYTES,
    SHORT_TIME,
    SUMMARY,
    SUMMARY_FIELD,
    UNQUALIFIED_SEPARATOR,
    Summary,
)


def meanings(owner: type[Any]) -> dict[str, str]:
    """The docstrings of a class's fields, by name: they are only in the source."""
    (body,) = ast.parse(inspect.getsource(owner)).body
    assert isinstance(body, ast.ClassDef)
    return {
        ast.unparse(before.target): " ".join(ast.literal_eval(after.value).split())
        for before, after in pairwise(body.body)
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr)
    }


def bucket_fields() -> list[tuple[str, str, str]]:
    """Field, number of bytes and content of everything in a bucket's hashes."""
    found = {name: meaning[0].lower() + meaning[1:].removesuffix(".") for name, meaning in meanings(Summary).items()}
    assert list(found) == list(Summary._fields)
    unqualified, severity = found.pop("unqualified"), found.pop("severity")
    order, codes = SUMMARY.format[0], SUMMARY.format[1:]
    assert order == LONG_MEMBER.format[0] == ">"
    assert UNQUALIFIED_SEPARATOR == "\n"
    sizes = [str(struct.calcsize(order + code)) for code in codes]
    summary = [*zip(sizes, found.values(), strict=True)]
    summary.append(
        ("rest", f"{severity}; then, unless it is 0, a line feed and the number, in digits, of {unqualified}")
    )
    flags = (
        f"{RESOLVED} the newest alert is resolved, {QUALIFIED} at least one alert qualified: it fired, was severe"
        f" enough and new; + {PREFIXED} if a prefix is named; + {ALERTS_UNIT} × alerts (× 0 in the long form)"
    )
    long_form = (
        f"the long form, for more than {SHORT_ALERTS} alerts or {SHORT_TIME:,} ms: alerts, then that time, each in half"
        " of the bytes"
    )
    resource = (
        "the resource as a msgpack array (kind, namespace, name), or nothing; if a prefix is named, its hash"
        f" ({PREFIX_HASH_BYTES} bytes), the namespace in msgpack, and the rest of the name"
    )
    member = [
        ("1", f"flags: {flags}"),
        (str(SHORT_BYTES - 1), "event time of the newest alert, minus the bucket's start (ms)"),
        (f"or {LONG_MEMBER.size}", long_form),
        ("rest", resource),
    ]
    prefix = (
        f"a prefix of {MIN_PREFIX} to {MAX_PREFIX} bytes: the kind and the name of resources in msgpack, up to the last"
        " hyphen of the name"
    )
    return [
        *_rows(f"`{SUMMARY_FIELD.decode()}`, the bucket summary", summary),
        *_rows(f"the {FINGERPRINT_BYTES} bytes of a fingerprint, a member", member),
        (f"`{META_FIELD.decode()}`", "all", "`GroupMeta` in msgpack, if it differs from the group's"),
        (f"the {PREFIX_HASH_BYTES} bytes of a hash", "all", prefix),
    ]


def _rows(field: str, cells: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Yields the rows of one field, which is named in the first."""
    for size, content in cells:
        yield field, size, content
        field = ""
