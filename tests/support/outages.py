"""Outages of an API server, each repaired on exit: killed, without its store, refusing, overloaded, failing.

Rights, priorities and webhooks take effect some time after the request that changes them: the block begins then.
"""

import http.client
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import yaml

from tests.support.apiserver import STORMS, WORKER, ApiServer
from tests.support.storms import manifest

NAMESPACES = "/api/v1/namespaces"
RBAC_GROUP = "rbac.authorization.k8s.io"
WRITER_BINDING = f"/apis/{RBAC_GROUP}/v1/namespaces/storms/rolebindings/stormfold-writer"
PRIORITIES = "/apis/flowcontrol.apiserver.k8s.io/v1"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


def create_namespace(server: ApiServer, name: str) -> None:
    """Creates a namespace."""
    server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})


def delete_namespace(server: ApiServer, name: str) -> None:
    """Deletes a namespace with its finalizers. Its objects stay, and are visible when it is created again."""
    path = f"{NAMESPACES}/{name}"
    assert server.request("DELETE", path).status == 200
    namespace = server.request("GET", path).body
    namespace["spec"]["finalizers"] = []
    assert server.request("PUT", f"{path}/finalize", namespace).status == 200
    assert server.request("GET", path).status == 404


def _refused(server: ApiServer) -> bool:
    """Whether the worker may not write a storm."""
    probe = manifest("probe")
    return server.request("POST", f"{STORMS}?dryRun=All", probe, identity=WORKER).status >= 400


@contextmanager
def away(server: ApiServer) -> Iterator[None]:
    """The API server is killed."""
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextmanager
def storeless(server: ApiServer) -> Iterator[None]:
    """The store is killed: requests hang, or fail with 5xx."""
    server.kill_store()
    try:
        yield
    finally:
        server.start_store()
        server.wait_ready()


@contextmanager
def forbidden(server: ApiServer) -> Iterator[None]:
    """The worker has no role: 403."""
    assert server.request("DELETE", WRITER_BINDING).status == 200
    try:
        server.wait(lambda: _refused(server))
        yield
    finally:
        server.install()


@contextmanager
def forbidden_in_team(server: ApiServer) -> Iterator[None]:
    """The worker has rights in the namespace `storms` only: 403 in `team`."""
    path = f"/apis/{RBAC_GROUP}/v1/clusterrolebindings"
    binding = server.request("GET", f"{path}/anywhere").body
    assert server.request("DELETE", f"{path}/anywhere").status == 200
    try:
        yield
    finally:
        again = {key: binding[key] for key in ("roleRef", "subjects")} | {"metadata": {"name": "anywhere"}}
        assert server.request("POST", path, again).status == 201


@contextmanager
def full_in_team(server: ApiServer) -> Iterator[None]:
    """The quota of the namespace `team` is full. There is no quota controller: its status is set here."""
    path = f"{NAMESPACES}/team/resourcequotas"
    limits = {"count/alertstorms.stormfold.dev": "1"}
    body = {"metadata": {"name": "few"}, "spec": {"hard": limits}}
    assert server.request("POST", path, body).status == 201
    status = server.request("GET", f"{path}/few").body | {"status": {"hard": limits, "used": limits}}
    assert server.request("PUT", f"{path}/few/status", status).status == 200
    try:
        yield
    finally:
        assert server.request("DELETE", f"{path}/few").status == 200


@contextmanager
def unfinished(server: ApiServer) -> Iterator[None]:
    """A request of the worker's service account to create a storm never ends."""
    token = yaml.safe_load(server.kubeconfig(WORKER).read_text())["users"][0]["user"]["token"]
    host = server.address.removeprefix("https://")
    tls = ssl.create_default_context(cafile=server.certificates)
    with closing(http.client.HTTPSConnection(host, context=tls)) as connection:
        connection.putrequest("POST", STORMS)
        for header in {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Content-Length": "9",
        }.items():
            connection.putheader(*header)
        connection.endheaders(b"{")
        yield


@contextmanager
def saturated(server: ApiServer) -> Iterator[None]:
    """The worker may create one storm at a time, and a request that never ends occupies the slot: 429."""
    api = "flowcontrol.apiserver.k8s.io/v1"
    limit = {"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}
    rule = {"verbs": ["create"], "apiGroups": ["stormfold.dev"], "resources": ["alertstorms"], "namespaces": ["*"]}
    worker = {"kind": "ServiceAccount", "serviceAccount": {"name": "stormfold", "namespace": "storms"}}
    level = {"type": "Limited", "limited": limit}
    schema = {
        "priorityLevelConfiguration": {"name": "few"},
        "matchingPrecedence": 10,
        "rules": [{"subjects": [worker], "resourceRules": [rule]}],
    }
    made = (
        ("prioritylevelconfigurations", "PriorityLevelConfiguration", level),
        ("flowschemas", "FlowSchema", schema),
    )
    for path, kind, spec in made:
        body = {"apiVersion": api, "kind": kind, "metadata": {"name": "few"}, "spec": spec}
        assert server.request("POST", f"{PRIORITIES}/{path}", body).status == 201
    try:
        with ExitStack() as stack:

            def occupied() -> bool:
                # One that is sent before the limit is in effect occupies no slot.
                stack.enter_context(unfinished(server))
                return _refused(server)

            server.wait(occupied)
            yield
    finally:
        for path, _, _ in reversed(made):
            assert server.request("DELETE", f"{PRIORITIES}/{path}/few").status == 200


@contextmanager
def failing(server: ApiServer) -> Iterator[None]:
    """An admission webhook for storms does not answer: 500."""
    rule = {
        "operations": ["CREATE"],
        "apiGroups": ["stormfold.dev"],
        "apiVersions": ["*"],
        "resources": ["alertstorms"],
    }
    webhook = {
        "name": "gone.example.com", "failurePolicy": "Fail", "sideEffects": "None", "timeoutSeconds": 1,
        "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://127.0.0.1:9/"}, "rules": [rule],
    }  # fmt: skip
    body = {"metadata": {"name": "gone"}, "webhooks": [webhook]}
    assert server.request("POST", WEBHOOKS, body).status == 201
    try:
        server.wait(lambda: _refused(server))
        yield
    finally:
        assert server.request("DELETE", f"{WEBHOOKS}/gone").status == 200
