"""A node with the image of the Dockerfile, and with Kafka and Redis in pods."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stormfold import __version__
from tests.integration.deploy.files import DOCKERFILE, ROOT
from tests.support import standins
from tests.support.apiserver import binaries
from tests.support.buildah import buildah
from tests.support.gobuild import built
from tests.support.node import Node, images, node, programs, remains

SERVERS = Path(__file__).parent / "servers.yaml"


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[Node]:
    """A running node, which leaves nothing behind. Paths of sockets are limited, so the path of its folder is short."""
    built(pytestconfig, lambda: (binaries(), programs()))
    folder = Path(tempfile.mkdtemp(prefix="node-"))
    with node(folder) as made:
        made.import_image("kafka:1", lambda root: images.configuration(standins.broker(root)))
        made.import_image("redis:1", lambda root: images.configuration(standins.redis(root)))
        made.kubectl("apply", "--filename", SERVERS)
        # Kafka starts at the same time.
        made.import_image(f"stormfold:{__version__}", lambda root: worker(root, made.folder / "buildah"))
        for name in ("kafka", "redis"):
            made.kubectl("--namespace", name, "rollout", "status", f"deployment/{name}", "--timeout=180s")
        yield made
    assert remains(folder) == []


def worker(root: Path, folder: Path) -> images.Configuration:
    """Builds the image of the Dockerfile, and copies its files; returns its configuration."""
    base = re.search(r"^ARG PYTHON=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert base
    folder.mkdir()
    with buildah(folder) as builder:
        builder.base(f"docker.io/library/{base[1]}")
        builder.build(ROOT, "localhost/stormfold")
        shutil.copytree(builder.unpacked("localhost/stormfold"), root, symlinks=True, dirs_exist_ok=True)
        return builder.configuration("localhost/stormfold")
