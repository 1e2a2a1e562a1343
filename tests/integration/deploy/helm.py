"""The real Helm, with its files in a folder of its own."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.integration.deploy.files import CHART, Manifest

RELEASE = "stormfold"
NAMESPACE = "storms"


class HelmError(Exception):
    """Helm failed. The message is what it wrote to stderr."""


class Helm:
    """Runs Helm. `folder` receives its files; with `kubeconfig` it can change a cluster."""

    def __init__(self, program: Path, folder: Path, kubeconfig: Path | None = None) -> None:
        self._program = program
        self._folder = folder
        self._environment = os.environ | {
            "HELM_CACHE_HOME": str(folder / "cache"),
            "HELM_CONFIG_HOME": str(folder / "config"),
            "HELM_DATA_HOME": str(folder / "data"),
            "KUBECONFIG": str(kubeconfig or folder / "none"),
        }

    def __call__(self, *words: str | Path, values: Mapping[str, Any] | None = None, namespace: str = NAMESPACE) -> str:
        """Runs a command, with a file of values; returns its output. Raises `HelmError` if it fails."""
        command: list[str | Path] = [self._program, *words, "--namespace", namespace]
        if values is not None:
            file = self._folder / "values.yaml"
            file.write_text(yaml.safe_dump(dict(values), allow_unicode=True))
            command += ["--values", file]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise HelmError(done.stderr + done.stdout)
        return done.stdout

    def rendered(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        chart: Path = CHART,
        namespace: str = NAMESPACE,
        words: Sequence[str] = (),
    ) -> list[Manifest]:
        """Returns the objects of `helm template`."""
        text = self("template", RELEASE, chart, *words, values=values, namespace=namespace)
        return list(yaml.safe_load_all(text))
