"""What k8s/rbac.yaml allows the worker's service account, and what not."""

import pytest

from tests.support.apiserver import NOBODY, STORMS, STRANGER, WORKER, ApiServer
from tests.support.storms import NAME, manifest

ONE = f"{STORMS}/{NAME}"
OTHER = STORMS.replace("/storms/", "/default/")


def test_the_worker_may_create_list_and_delete_resources_in_its_namespace(storms: ApiServer) -> None:
    for method, path, body, status in (
        ("POST", f"{STORMS}?dryRun=All", manifest(), 201),
        ("POST", STORMS, manifest(), 201),
        ("GET", STORMS, None, 200),
        ("DELETE", ONE, None, 200),
    ):
        assert storms.request(method, path, body, identity=WORKER).status == status, (method, path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ONE),
        ("PUT", ONE),
        ("PATCH", ONE),
        ("PATCH", f"{ONE}/status"),
        ("DELETE", STORMS),
        ("GET", f"{STORMS}?watch=true"),
        ("POST", OTHER),
        ("GET", OTHER),
        ("GET", "/apis/stormfold.dev/v1alpha1/alertstorms"),
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
