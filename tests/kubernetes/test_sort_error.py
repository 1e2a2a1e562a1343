"""Sorting of answers by what the caller should do."""

import json
from typing import Any

import pytest

from app.errors import DeadLetter, Retry, Stop
from app.sinks.kubernetes import sort_error


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
        (401, status("Unauthorized"), Stop),
        (403, status("Forbidden"), Stop),
        (404, status("NotFound", kind="namespaces"), Stop),
        (404, b"404 page not found\n", Stop),
        (405, status("MethodNotAllowed"), Stop),
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
    """Every answer has one place; the message carries the code, and `Stop` says what to do."""
    error = sort_error(code, body, {})
    assert type(error) is expected
    assert str(error).startswith(str(code))
    if isinstance(error, Stop):
        assert error.advice


def test_details() -> None:
    """What is missing is said: permission, the definition, the namespace."""
    forbidden, text, namespace, ending, quota = (
        sort_error(403, status("Forbidden"), {}, "Bind it."),
        sort_error(404, b"404 page not found\n", {}),
        sort_error(404, status("NotFound", kind="namespaces"), {}),
        sort_error(403, status("Forbidden", causes=[{"reason": "NamespaceTerminating"}]), {}, "Bind it."),
        sort_error(403, status("Forbidden", 'alertstorms "a" is forbidden: exceeded quota: few'), {}, "Bind it."),
    )
    assert isinstance(forbidden, Stop) and forbidden.advice == "Bind it."
    assert isinstance(text, Stop) and "crd.yaml" in str(text.advice)
    assert isinstance(namespace, Stop) and "namespace" in str(namespace.advice)
    assert isinstance(ending, Stop) and "Bind" not in str(ending.advice)
    assert isinstance(quota, Stop) and "ResourceQuota" in str(quota.advice)


@pytest.mark.parametrize(("header", "after"), [("7", 7.0), ("", None), ("soon", None), ("-1", None), ("²", None)])
def test_retry_after(header: str, after: float | None) -> None:
    """A pause in seconds is handed on; anything else is left to the caller's own."""
    error = sort_error(429, b"", {"Retry-After": header})
    assert isinstance(error, Retry)
    assert error.after == after


def test_message_is_bounded() -> None:
    """A page of a proxy does not become a log line of a megabyte."""
    assert len(str(sort_error(502, b"x" * 1_000_000, {}))) <= 1000
