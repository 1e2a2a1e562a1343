"""A Docker engine with the images of docker-compose.yml, or their stand-ins."""

from collections.abc import Iterator

import pytest
import yaml

from tests.engine.stack import Stack, load_images, write_override
from tests.integration.deploy.files import COMPOSE, ROOT
from tests.support import alertmanager, prometheus
from tests.support.engine import Engine, compose_program, engine
from tests.support.gobuild import built


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Engine]:
    """The engine of this run, with all images."""
    built(pytestconfig, lambda: (compose_program(), prometheus.programs(), alertmanager.program()))
    lines = (ROOT / ".env").read_text().splitlines()
    tags = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    with engine(tmp_path_factory.mktemp("engine")) as made:
        load_images(made, yaml.safe_load(COMPOSE.read_text())["services"], tags)
        yield made


@pytest.fixture(scope="session")
def stack(docker: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, started from nothing by one command."""
    folder = tmp_path_factory.mktemp("stack")
    made = Stack(docker, write_override(folder, yaml.safe_load(COMPOSE.read_text())["services"]))
    try:
        made.up()
        yield made
    finally:
        print(made.compose("logs", "--no-color", "--tail", "30", "worker", "receive", "topics", "redis"))
