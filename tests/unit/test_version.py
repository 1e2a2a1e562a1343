"""The version is written in stormfold.__version__; files that cannot read it from there must agree with it."""

import re
from pathlib import Path

import pytest

from stormfold import __version__

ROOT = Path(__file__).parents[2]
COPIES = {
    "Dockerfile": r"^ARG VERSION=(\S+)$",
    ".env": r"^WORKER_TAG=(\S+)$",
    "k8s/base/worker/kustomization.yaml": r"name: stormfold\n    newTag: (\S+)$",
    "k8s/overlays/receive/kustomization.yaml": r"name: stormfold\n    newTag: (\S+)$",
    "docs/how-to/deploy.md": r"(?:newTag: |/stormfold:)(\d[\w.]*)",
}
"""File, and a pattern that finds every copy of the version in it."""


@pytest.mark.parametrize("file", COPIES)
def test_every_copy_of_the_version_is_the_version_of_the_package(file: str) -> None:
    found = re.findall(COPIES[file], (ROOT / file).read_text(), re.MULTILINE)
    assert found
    assert set(found) == {__version__}
