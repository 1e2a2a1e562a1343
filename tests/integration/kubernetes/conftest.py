"""The API server that these tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import gobuild
from tests.support.apiserver import ApiServer, binaries


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest) -> None:
    """Builds the API server where it is not cached; its absence is a skip on a developer's machine only."""
    gobuild.built(request.config, binaries)


@pytest.fixture(scope="session")
def apiserver(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:  # noqa: ARG001
    """Runs throughout, with stormfold's CRD and RBAC installed."""
    with ApiServer(tmp_path_factory.mktemp("apiserver")) as server:
        server.install()
        yield server


@pytest.fixture(scope="session")
def bare(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:  # noqa: ARG001
    """One to break: tests install what they need."""
    with ApiServer(tmp_path_factory.mktemp("bare")) as server:
        yield server


@pytest.fixture
def narrow(built: None, tmp_path: Path) -> Iterator[ApiServer]:  # noqa: ARG001
    """One that takes a single change at a time."""
    flags = "--enable-priority-and-fairness=false", "--max-mutating-requests-inflight=1"
    with ApiServer(tmp_path, *flags) as server:
        server.install()
        yield server


@pytest.fixture
def storms(apiserver: ApiServer) -> Iterator[ApiServer]:
    """The same, without storms in the namespace `storms` before and after."""
    _clear(apiserver)
    yield apiserver
    _clear(apiserver)


def _clear(apiserver: ApiServer) -> None:
    for name in apiserver.storms():
        apiserver.request("DELETE", f"/apis/stormfold.dev/v1alpha1/namespaces/storms/alertstorms/{name}")
