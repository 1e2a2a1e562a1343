"""Error responses of the Kubernetes API, sorted by what the caller should do."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from stormfold.errors import ActionRequired, DeadLetter, Retry, StormfoldError
from stormfold.sinks.kinds import STORMS, ResourceKind

PROXY_HINT = "correct `server` in the kubeconfig; a proxy on the way there is set by `proxy-url`"
CRD_HINT = "apply k8s/crd.yaml"
WRITER_HINT = "bind the role stormfold-writer of k8s/rbac.yaml in that namespace"
_TOO_LARGE = ("message larger than max", "request is too large")
_QUOTA = ("exceeded quota", "failed quota", "status unknown for quota")
_PAGE_STATUS = (400, 403, 404, 405)
"""With these and a page of HTML, a proxy or another web server refuses a request that it does not know."""
_WITHOUT_TLS = "Client sent an HTTP request to an HTTPS server"
_DENIED = re.compile(
    r"""admission webhook "[^"]+" denied the request|ValidatingAdmissionPolicy '[^']+' with binding '[^']+' denied"""
)
"""A webhook or policy of the cluster has seen the resource and rejects it, with any status from 400 on."""


class Denied(DeadLetter):
    """A policy of the cluster rejects this resource."""


class _Details(msgspec.Struct):
    kind: str = ""
    causes: list[dict[str, Any]] = []


class _Status(msgspec.Struct):
    """The body of an error response."""

    reason: str = ""
    message: str = ""
    details: _Details | None = None


def response_reason(body: bytes) -> str:
    """The reason in an error response, such as `AlreadyExists`; empty without one."""
    return _status(body).reason


def response_error(
    status: int, body: bytes, headers: Mapping[str, str], grant: str = WRITER_HINT, kind: ResourceKind = STORMS
) -> StormfoldError:
    """The error that a response means; `grant` is the hint if the permission is missing.

    The body is mostly a `Status` as JSON, but plain text from the router and from filters.
    """
    answer = _status(body)
    message = f"{status} {answer.reason}: {answer.message}".strip(" :")[:1000]
    after = headers.get("Retry-After", "")
    if status == 500 and any(text in answer.message for text in _TOO_LARGE):
        return DeadLetter(message)
    if status == 407 or (status in _PAGE_STATUS and body.lstrip().startswith(b"<")) or _WITHOUT_TLS in answer.message:
        return ActionRequired(f"{status}: the response is not one of a Kubernetes API server", PROXY_HINT)
    if status == 429 or status >= 500 or status < 400:
        return Retry(message, after=float(after) if after.isdecimal() else None)
    if _DENIED.search(answer.message):
        return Denied(message)
    if status in (400, 413, 415, 422):
        return DeadLetter(message)
    if status == 401:
        return ActionRequired(message, "renew the credentials in the kubeconfig")
    if status == 403:
        return _forbidden(message, answer, grant, kind)
    if status == 404 and answer.details and answer.details.kind == "namespaces":
        return ActionRequired(message, "create the namespace (k8s/rbac.yaml creates `storms`)")
    if status in (404, 405):
        # The answer is 405 while the definition is being deleted.
        return ActionRequired(f"{message} (the cluster has no {kind.name} definition)", CRD_HINT)
    return Retry(message)


def _forbidden(message: str, answer: _Status, grant: str, kind: ResourceKind) -> StormfoldError:
    causes = answer.details.causes if answer.details else []
    if any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
        return ActionRequired(message, "wait until the namespace is deleted, then create it again")
    if any(text in answer.message for text in _QUOTA):
        # Room returns without a person, for example when retention deletes old resources.
        hint = f"raise the ResourceQuota of the namespace, or keep fewer {kind.noun}s (`{kind.limit_key}`)"
        return Retry(message, hint)
    return ActionRequired(message, grant)


def _status(body: bytes) -> _Status:
    try:
        return msgspec.json.decode(body, type=_Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Status(message=body[:1000].decode(errors="replace").strip())
