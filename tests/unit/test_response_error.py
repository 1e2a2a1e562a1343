"""Errors of the Kubernetes API, sorted by what the caller should do."""

import json
from typing import Any

import pytest

from stormfold.errors import ActionRequired, DeadLetter, Retry
from stormfold.sinks.responses import Denied, response_error

POLICY = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request"


def status(reason: str, message: str = "", **details: Any) -> bytes:
    return json.dumps({"kind": "Status", "reason": reason, "message": message, "details": details or None}).encode()


@pytest.mark.parametrize(
    ("code", "body", "expected"),
    [
        (400, status("BadRequest", "unknown field"), DeadLetter),
        (413, b"<html>Request Entity Too Large</html>", DeadLetter),
        (415, b"", DeadLetter),
        (400, b"<!DOCTYPE html><title>ERROR: The requested URL could not be retrieved</title>", ActionRequired),
        (403, b"\n<html>Forbidden</html>", ActionRequired),
        (405, b"<html>Method Not Allowed</html>", ActionRequired),
        (407, b"", ActionRequired),
        (400, b"Client sent an HTTP request to an HTTPS server.\n", ActionRequired),
        (422, status("Invalid"), DeadLetter),
        (500, status("InternalError", "rpc error: trying to send message larger than max"), DeadLetter),
        (500, status("", "etcdserver: request is too large"), DeadLetter),
        (401, status("Unauthorized"), ActionRequired),
        (403, status("Forbidden"), ActionRequired),
        (403, status("Forbidden", 'admission webhook "a.example.com" denied the request: no'), Denied),
        (400, status("BadRequest", 'admission webhook "a.example.com" denied the request: no'), Denied),
        (401, status("Unauthorized", f"x is forbidden: {POLICY}: no"), Denied),
        (403, status("Forbidden", f"x is forbidden: {POLICY}: no"), Denied),
        (422, status("Invalid", f"x is forbidden: {POLICY}: no"), Denied),
        (429, status("TooManyRequests", 'admission webhook "a.example.com" denied the request: later'), Retry),
        (500, status("InternalError", 'failed calling webhook "a.example.com": connection refused'), Retry),
        (403, status("Forbidden", 'alertstorms "a" is forbidden: exceeded quota: few'), Retry),
        (403, status("Forbidden", 'alertstorms "a" is forbidden: status unknown for quota: few'), Retry),
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
def test_each_response_is_sorted_by_what_to_do(code: int, body: bytes, expected: type[Exception]) -> None:
    error = response_error(code, body, {})
    assert type(error) is expected
    assert str(error).startswith(str(code))
    if isinstance(error, ActionRequired):
        assert error.hint


def test_the_hint_names_what_is_missing() -> None:
    forbidden, text, namespace, ending, quota = (
        response_error(403, status("Forbidden"), {}, "bind it"),
        response_error(404, b"404 page not found\n", {}),
        response_error(404, status("NotFound", kind="namespaces"), {}),
        response_error(403, status("Forbidden", causes=[{"reason": "NamespaceTerminating"}]), {}, "bind it"),
        response_error(403, status("Forbidden", 'alertstorms "a" is forbidden: exceeded quota: few'), {}, "bind it"),
    )
    assert isinstance(forbidden, ActionRequired) and forbidden.hint == "bind it"
    assert isinstance(text, ActionRequired) and "crd.yaml" in str(text.hint)
    assert isinstance(namespace, ActionRequired) and "namespace" in str(namespace.hint)
    assert isinstance(ending, ActionRequired) and "bind" not in str(ending.hint)
    assert isinstance(quota, Retry) and "ResourceQuota" in str(quota.hint)


@pytest.mark.parametrize(("header", "after"), [("7", 7.0), ("", None), ("soon", None), ("-1", None), ("²", None)])
def test_only_a_retry_after_in_seconds_is_used(header: str, after: float | None) -> None:
    error = response_error(429, b"", {"Retry-After": header})
    assert isinstance(error, Retry)
    assert error.after == after


def test_the_message_of_a_large_response_is_cut() -> None:
    assert len(str(response_error(502, b"x" * 1_000_000, {}))) <= 1000


@pytest.mark.parametrize(("code", "body"), [(400, b"<html>"), (404, b"<html>"), (407, b""), (403, b"<html>")])
def test_a_proxy_or_web_server_in_place_of_the_api_server_gets_a_hint(code: int, body: bytes) -> None:
    """It is not taken for a missing definition or role."""
    error = response_error(code, body, {})
    assert "not one of a Kubernetes API server" in str(error) and error.hint and "proxy-url" in error.hint
