"""API servers that the tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import gobuild
from tests.support.apiserver import INCIDENTS, STORMS, ApiServer, binaries


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest) -> None:
    """Builds the API server if it is not cached. Only on a developer's machine a failure skips the tests."""
    gobuild.built(request.config, binaries)


@pytest.fixture(scope="session")
def apiserver(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:  # noqa: ARG001
    """A server with stormfold's CRD and RBAC, for the whole session."""
    with ApiServer(tmp_path_factory.mktemp("apiserver")) as server:
        server.install()
        yield server


@pytest.fixture(scope="session")
def bare(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:  # noqa: ARG001
    """A server that tests may break. They install what they need."""
    with ApiServer(tmp_path_factory.mktemp("bare")) as server:
        yield server


@pytest.fixture
def narrow(built: None, tmp_path: Path) -> Iterator[ApiServer]:  # noqa: ARG001
    """A server that accepts one change at a time."""
    flags = "--enable-priority-and-fairness=false", "--max-mutating-requests-inflight=1"
    with ApiServer(tmp_path, *flags) as server:
        server.install()
        yield server


@pytest.fixture
def storms(apiserver: ApiServer) -> Iterator[ApiServer]:
    """The shared server, without resources in the namespace `storms`."""
    _clear(apiserver)
    yield apiserver
    _clear(apiserver)


def _clear(apiserver: ApiServer) -> None:
    for path in (STORMS, INCIDENTS):
        assert apiserver.request("DELETE", path).status == 200
