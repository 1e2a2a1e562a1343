"""What k8s/rbac.yaml allows the worker's service account, and what not."""

import pytest

from tests.support import incident_manifests as incidents
from tests.support.apiserver import INCIDENTS, NOBODY, STORMS, STRANGER, WORKER, ApiServer
from tests.support.storms import NAME, manifest

NAMES = {STORMS: NAME, INCIDENTS: incidents.NAME}
OTHERS = [
    ("GET", "{}/{}"),
    ("PUT", "{}/{}"),
    ("PATCH", "{}/{}"),
    ("PATCH", "{}/{}/status"),
    ("DELETE", "{}"),
    ("GET", "{}?watch=true"),
]


@pytest.mark.parametrize("path", NAMES)
def test_the_worker_may_create_list_and_delete_resources_in_its_namespace(storms: ApiServer, path: str) -> None:
    found = manifest() if path == STORMS else incidents.manifest()
    for method, at, body, status in (
        ("POST", f"{path}?dryRun=All", found, 201),
        ("POST", path, found, 201),
        ("GET", path, None, 200),
        ("DELETE", f"{path}/{NAMES[path]}", None, 200),
    ):
        assert storms.request(method, at, body, identity=WORKER).status == status, (method, at)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *((method, path.format(kind, name)) for kind, name in NAMES.items() for method, path in OTHERS),
        *((method, kind.replace("/storms/", "/default/")) for kind in NAMES for method in ("POST", "GET")),
        ("GET", "/apis/stormfold.dev/v1alpha1/alertstorms"),
        ("GET", "/apis/stormfold.dev/v1alpha1/alertincidents"),
        ("GET", "/api/v1/namespaces/storms/secrets"),
        ("GET", "/api/v1/namespaces/storms/pods"),
        ("POST", "/api/v1/namespaces/storms/serviceaccounts/stormfold/token"),
        ("GET", "/api/v1/namespaces"),
        ("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/storms/rolebindings"),
    ],
)
def test_the_worker_may_do_nothing_else(storms: ApiServer, method: str, path: str) -> None:
    content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
    body: dict[str, str] | None = {} if method in ("POST", "PUT", "PATCH") else None
    assert storms.request(method, path, body, identity=WORKER, content_type=content_type).status == 403


def test_other_identities_may_do_nothing(storms: ApiServer) -> None:
    assert storms.request("POST", STORMS, manifest(), identity=STRANGER).status == 403
    assert storms.request("POST", STORMS, manifest(), identity=NOBODY).status == 401
