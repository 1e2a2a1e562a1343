"""The example controller of docs/how-to/act-on-incidents.md."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.deploy.test_docs import blocks
from tests.support.apiserver import STRANGER, ApiServer
from tests.support.incident_manifests import manifest

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "act-on-incidents.md"
SECONDS = 60


@pytest.fixture
def controller(storms: ApiServer, tmp_path: Path) -> Path:
    """The program of the page, with the role of the page."""
    *_, namespace, name = STRANGER.split(":")
    for found in yaml.safe_load_all(*blocks(PAGE, "yaml")):
        if found["kind"] == "RoleBinding":
            found["subjects"] = [{"kind": "ServiceAccount", "name": name, "namespace": namespace}]
        storms.apply(found)
    program = tmp_path / "controller.py"
    program.write_text(*blocks(PAGE, "python"))
    return program


@contextmanager
def running(program: Path, server: ApiServer) -> Iterator[Path]:
    """Runs the controller; yields the file with its output."""
    log_file = program.with_suffix(".log")
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, program], env=os.environ | {"KUBECONFIG": str(server.kubeconfig(STRANGER))},
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield log_file
        assert process.poll() is None, log_file.read_text()
    finally:
        process.kill()
        process.wait()


def conditions(server: ApiServer) -> dict[str, list[Any]]:
    """Conditions of each resource, by name."""
    return {name: found.get("status", {}).get("conditions", []) for name, found in server.incidents().items()}


def acknowledged(server: ApiServer, *names: str) -> bool:
    """Waits until all resources have the condition."""
    deadline = time.monotonic() + SECONDS
    while not all(conditions(server)[name] for name in names):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_the_example_controller_acts_once_on_each_incident(storms: ApiServer, controller: Path) -> None:
    """That holds for existing and new storms, and if it is killed and restarted."""
    storms.apply(manifest("first", alertCount=1))
    with running(controller, storms) as log_file:
        assert acknowledged(storms, "first"), log_file.read_text()
        storms.apply(manifest("second", alertCount=2))
        assert acknowledged(storms, "first", "second"), log_file.read_text()
    storms.apply(manifest("third", alertCount=3))
    with running(controller, storms) as log_file:
        assert acknowledged(storms, "third"), log_file.read_text()
    counts = [line.split(": ")[1].split(", ")[0] for line in log_file.read_text().splitlines()]
    assert counts == ["1 alerts", "2 alerts", "3 alerts"]
    assert all(found["spec"]["alertCount"] for found in storms.incidents().values())
