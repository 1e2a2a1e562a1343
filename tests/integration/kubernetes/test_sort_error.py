"""Sorting of answers by what the caller should do."""

import json
from typing import Any

import pytest

from stormfold.errors import ActionRequired, DeadLetter, Retry
from stormfold.sinks.kubernetes import sort_error


def status(reason: str, message: str = "", **details: Any) -> bytes:
    return json.dumps({"kind": "Status", "reason": reason, "message": message, "details": details or None}).encode()


@pytest.mark.parametrize(
    ("code", "body", "expected"),
    [
        (400, status("BadRequest", "unknown field"), DeadLetter),
        (413, b"<html>Request Entity Too Large</html>", DeadLetter),
        (415, b"", DeadLetter),
        (422, status("Invalid"), DeadLetter),
        (500, status("InternalError", "rpc error: trying to send message larger than max"), DeadLetter),
        (500, status("", "etcdserver: request is too large"), DeadLetter),
        (401, status("Unauthorized"), ActionRequired),
        (403, status("Forbidden"), ActionRequired),
        (404, status("NotFound", kind="namespaces"), ActionRequired),
        (404, b"404 page not found\n", ActionRequired),
        (405, status("MethodNotAllowed"), ActionRequired),
        (409, status("Conflict"), Retry),
        (410, status("Expired"), Retry),
        (429, b"Too many requests, please try again later.\n", Retry),
        (500, status("InternalError", "etcd leader changed"), Retry),
        (500, b"\xff\xfe", Retry),
        (502, b"<html>Bad Gateway</html>", Retry),
        (503, b"", Retry),
        (504, status("Timeout"), Retry),
        (200, b"<html>Please log in</html>", Retry),
        (500, b'{"message": 7}', Retry),
        (500, b"[]", Retry),
        (500, b'{"details": {"causes": null}}', Retry),
    ],
)
def test_sorted(code: int, body: bytes, expected: type[Exception]) -> None:
    """Every answer has one place; the message carries the code, and `ActionRequired` says what to do."""
    error = sort_error(code, body, {})
    assert type(error) is expected
    assert str(error).startswith(str(code))
    if isinstance(error, ActionRequired):
        assert error.hint


def test_details() -> None:
    """What is missing is said: permission, the definition, the namespace."""
    forbidden, text, namespace, ending, quota = (
        sort_error(403, status("Forbidden"), {}, "Bind it."),
        sort_error(404, b"404 page not found\n", {}),
        sort_error(404, status("NotFound", kind="namespaces"), {}),
        sort_error(403, status("Forbidden", causes=[{"reason": "NamespaceTerminating"}]), {}, "Bind it."),
        sort_error(403, status("Forbidden", 'alertstorms "a" is forbidden: exceeded quota: few'), {}, "Bind it."),
    )
    assert isinstance(forbidden, ActionRequired) and forbidden.hint == "Bind it."
    assert isinstance(text, ActionRequired) and "crd.yaml" in str(text.hint)
    assert isinstance(namespace, ActionRequired) and "namespace" in str(namespace.hint)
    assert isinstance(ending, ActionRequired) and "Bind" not in str(ending.hint)
    assert isinstance(quota, ActionRequired) and "ResourceQuota" in str(quota.hint)


@pytest.mark.parametrize(("header", "after"), [("7", 7.0), ("", None), ("soon", None), ("-1", None), ("²", None)])
def test_retry_after(header: str, after: float | None) -> None:
    """A pause in seconds is handed on; anything else is left to the caller's own."""
    error = sort_error(429, b"", {"Retry-After": header})
    assert isinstance(error, Retry)
    assert error.after == after


def test_message_is_bounded() -> None:
    """A page of a proxy does not become a log line of a megabyte."""
    assert len(str(sort_error(502, b"x" * 1_000_000, {}))) <= 1000
