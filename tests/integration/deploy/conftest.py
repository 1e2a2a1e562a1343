"""The deployment's files as the real programs read them, and an API server with the definitions they need."""

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
    """Where Go is missing, `built` has skipped or failed."""
    return programs()


@pytest.fixture(scope="session")
def services(tools: Programs) -> dict[str, Any]:
    """The services of docker-compose.yml as Docker Compose understands it, with every profile on."""
    said = subprocess.run([tools.compose, ROOT, "*"], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    found: dict[str, Any] = json.loads(said.stdout)["services"]
    return found


@pytest.fixture(scope="session")
def cluster(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:  # noqa: ARG001
    """An API server that knows what the Prometheus operator and KEDA define."""
    with ApiServer(tmp_path_factory.mktemp("cluster")) as server:
        server.apply(*foreign_definitions())
        yield server
