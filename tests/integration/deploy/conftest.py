"""The deployment files as real programs read them, and an API server with the definitions that they need."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.deploy.files import ROOT, Programs, foreign_definitions, programs
from tests.integration.kubernetes.conftest import built as built
from tests.support.apiserver import ApiServer


@pytest.fixture(scope="session")
def tools(built: None) -> Programs:  # noqa: ARG001
    """The programs; without Go, `built` skips or fails the test."""
    return programs()


@pytest.fixture(scope="session")
def services(tools: Programs) -> dict[str, Any]:
    """The services of docker-compose.yml as Docker Compose parses them, with every profile."""
    done = subprocess.run([tools.compose, ROOT, "*"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


@pytest.fixture(scope="session")
def cluster(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:  # noqa: ARG001
    """An API server with the definitions of the Prometheus operator and of KEDA."""
    with ApiServer(tmp_path_factory.mktemp("cluster")) as server:
        server.apply(*foreign_definitions())
        yield server
