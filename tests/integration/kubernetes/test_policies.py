"""Policies, webhooks and quotas of a real API server: a denial concerns one resource, a full quota passes."""

import json
import ssl
import threading
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stormfold.errors import ActionRequired, DeadLetter, Retry
from stormfold.sinks import Outcome
from stormfold.sinks.kinds import KINDS, ResourceKind
from stormfold.sinks.kubernetes import KubernetesSink
from stormfold.sinks.responses import Denied
from tests.integration.security.certificates import Authority
from tests.support import incident_manifests as incidents
from tests.support.apiserver import STORMS, STRANGER, WORKER, ApiServer
from tests.support.servers import until
from tests.support.storms import manifest

POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
QUOTAS = "/api/v1/namespaces/storms/resourcequotas"
WORDS = "no storms on Sundays"
RULE = {
    "apiGroups": ["stormfold.dev"],
    "apiVersions": ["*"],
    "operations": ["CREATE"],
    "resources": ["alertstorms", "alertincidents"],
}
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def example(kind: ResourceKind, name: str) -> dict[str, Any]:
    """A resource of a kind."""
    return manifest(name) if kind.name == "AlertStorm" else incidents.manifest(name)


def sink(server: ApiServer, kind: ResourceKind = KINDS[0], identity: str = WORKER) -> KubernetesSink:
    return KubernetesSink(server.kubeconfig(identity), None, kind)


async def write(server: ApiServer, name: str, kind: ResourceKind = KINDS[0]) -> Outcome:
    """Writes a resource as the worker."""
    found = sink(server, kind)
    try:
        return await found.write(example(kind, name), name)
    finally:
        await found.close()


@asynccontextmanager
async def created(server: ApiServer, probe: dict[str, Any], **objects: dict[str, Any]) -> AsyncIterator[None]:
    """Creates objects until the block ends. Waits until they refuse the probe, and at the end until they do not."""

    def refused() -> bool:
        return server.request("POST", f"{STORMS}?dryRun=All", probe).status >= 400

    paths = {"policy": POLICIES, "binding": BINDINGS, "webhook": WEBHOOKS, "quota": QUOTAS}
    for name, body in objects.items():
        answer = server.request("POST", paths[name], body)
        assert answer.status == 201, answer
        if "status" in body:
            found = server.request("GET", f"{paths[name]}/{body['metadata']['name']}").body
            path = f"{paths[name]}/{body['metadata']['name']}/status"
            assert server.request("PUT", path, found | {"status": body["status"]}).status == 200
    try:
        await until(refused, what="they are in force")
        yield
    finally:
        for name, body in objects.items():
            assert server.request("DELETE", f"{paths[name]}/{body['metadata']['name']}").status == 200
        await until(lambda: not refused(), what="they are no longer in force")


@asynccontextmanager
async def policy(
    server: ApiServer, expression: str, reason: str | None, probe: dict[str, Any] | None = None
) -> AsyncIterator[None]:
    """A ValidatingAdmissionPolicy for resources of stormfold."""
    validation = {"expression": expression, "message": WORDS} | ({"reason": reason} if reason else {})
    spec = {
        "failurePolicy": "Fail", "matchConstraints": {"resourceRules": [RULE]}, "validations": [validation],
    }  # fmt: skip
    body = {"metadata": {"name": "sundays"}, "spec": spec}
    binding = {"metadata": {"name": "sundays"}, "spec": {"policyName": "sundays", "validationActions": ["Deny"]}}
    async with created(server, probe or manifest("bad"), policy=body, binding=binding):
        yield


class _Webhook(BaseHTTPRequestHandler):
    """Denies resources whose name begins with `bad`; the rest of the name is the status, if there is one."""

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        name = review["object"]["metadata"]["name"]
        answer: dict[str, Any] = {"uid": review["uid"], "allowed": not name.startswith("bad")}
        if not answer["allowed"]:
            answer["status"] = {"message": WORDS} | ({"code": int(name[3:])} if name[3:] else {})
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@asynccontextmanager
async def webhook(server: ApiServer, folder: Path) -> AsyncIterator[None]:
    """A webhook that the API server asks about every new resource."""
    authority = Authority(folder / "authority")
    pair = authority.issue("webhook")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    service = ThreadingHTTPServer(("127.0.0.1", 0), _Webhook)
    service.socket = context.wrap_socket(service.socket, server_side=True)
    thread = threading.Thread(target=service.serve_forever)
    thread.start()
    hook = {
        "name": "sundays.example.com", "failurePolicy": "Fail", "sideEffects": "None", "timeoutSeconds": 5,
        "admissionReviewVersions": ["v1"], "rules": [RULE],
        "clientConfig": {
            "url": f"https://127.0.0.1:{service.server_port}/",
            "caBundle": b64encode(authority.file.read_bytes()).decode(),
        },
    }  # fmt: skip
    try:
        async with created(server, manifest("bad"), webhook={"metadata": {"name": "sundays"}, "webhooks": [hook]}):
            yield
    finally:
        service.shutdown()
        thread.join()
        service.server_close()


@asynccontextmanager
async def quota(server: ApiServer, known: bool) -> AsyncIterator[None]:
    """A full quota. This server has no quota controller, so the test sets what is used."""
    limits = {f"count/{plural}.stormfold.dev": "1" for plural in ("alertstorms", "alertincidents")}
    body = {
        "metadata": {"name": "few", "namespace": "storms"}, "spec": {"hard": limits},
        "status": {"hard": limits} | ({"used": limits} if known else {}),
    }  # fmt: skip
    async with created(server, manifest("any"), quota=body):
        yield


@each_kind
@pytest.mark.parametrize("reason", [None, "Forbidden", "RequestEntityTooLarge"])
async def test_a_resource_that_a_policy_denies_is_a_dead_letter_with_its_words(
    storms: ApiServer, kind: ResourceKind, reason: str | None
) -> None:
    """Whatever status the policy answers with; other resources are created."""
    async with policy(storms, "!object.metadata.name.startsWith('bad')", reason):
        with pytest.raises(Denied, match=f"sundays.*{WORDS}"):
            await write(storms, "bad", kind)
        assert await write(storms, "good", kind) is Outcome.CREATED


@each_kind
@pytest.mark.parametrize("code", ["", "403", "400", "422", "401"])
async def test_a_resource_that_a_webhook_denies_is_a_dead_letter_with_its_words(
    storms: ApiServer, tmp_path: Path, kind: ResourceKind, code: str
) -> None:
    async with webhook(storms, tmp_path):
        with pytest.raises(DeadLetter, match=f"sundays.example.com.*{WORDS}"):
            await write(storms, f"bad{code}", kind)
        assert await write(storms, "good", kind) is Outcome.CREATED


@pytest.mark.parametrize("code", ["429", "503"])
async def test_a_webhook_may_ask_for_another_attempt(storms: ApiServer, tmp_path: Path, code: str) -> None:
    async with webhook(storms, tmp_path):
        with pytest.raises(Retry, match=WORDS):
            await write(storms, f"bad{code}")


async def test_a_policy_that_denies_the_test_resource_does_not_stop_a_namespace(storms: ApiServer) -> None:
    """It judges content: nothing can be concluded for real resources, which may be allowed."""
    async with policy(storms, "object.spec.severity == 'critical'", "Forbidden", manifest("bad", severity="none")):
        found = sink(storms)
        await found.check("storms")
        assert await found.write(manifest("good"), "good") is Outcome.CREATED
        await found.close()


@each_kind
async def test_missing_rights_are_no_denial_even_under_a_policy(storms: ApiServer, kind: ResourceKind) -> None:
    async with policy(storms, "false", "Forbidden"):
        found = sink(storms, kind, STRANGER)
        with pytest.raises(ActionRequired, match="cannot create") as stop:
            await found.write(example(kind, "any"), "any")
        assert "stormfold-writer" in str(stop.value.hint)
        await found.close()


@pytest.mark.parametrize("known", [True, False])
async def test_a_full_quota_is_retried_and_the_hint_names_the_limit(storms: ApiServer, known: bool) -> None:
    """Also one whose use is not known yet."""
    async with quota(storms, known):
        for kind in KINDS:
            with pytest.raises(Retry, match="quota") as wait:
                await write(storms, "any", kind)
            assert kind.limit_key in str(wait.value.hint)
    for kind in KINDS:
        assert await write(storms, "any", kind) is Outcome.CREATED
