"""The files that are deployed, and the real programs that read them."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import yaml

from stormfold.cli import command
from stormfold.local.process import cache_dir
from stormfold.settings import PREFIX, Settings
from tests.support.gobuild import build

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"
K8S = ROOT / "k8s"
CHART = K8S / "chart"
OVERLAYS = sorted(path.parent for path in (K8S / "overlays").glob("*/kustomization.yaml"))
RECEIVE = K8S / "overlays" / "receive"
ALONE = [K8S, K8S / "base", *(path for path in OVERLAYS if path.name not in ("monitoring", "receive"))]
"""Folders that are a complete deployment."""
COMPONENTS = sorted(path.parent for path in (K8S / "components").glob("*/kustomization.yaml"))
"""Components that can be added to one of those."""
MANAGED = {
    folder: [
        K8S / "components" / name for name in (["managed", "managed-keda"] if "keda" in folder.name else ["managed"])
    ]
    for folder in ALONE
    if folder not in (K8S, K8S / "base", K8S / "overlays" / "managed")
}
"""The other variants, with the components that add credentials and TLS to them."""

KUSTOMIZE = "v5.8.2"
HELM = "v4.3.2"
KEDA = "github.com/kedacore/keda/v2@v2.21.0"
DEFINITIONS = {
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
    KEDA: (
        "config/crd/bases/keda.sh_scaledobjects.yaml",
        "config/crd/bases/keda.sh_triggerauthentications.yaml",
    ),
}
"""Go modules, and the paths of their definitions in them."""

Manifest = dict[str, Any]


class Programs(NamedTuple):
    """Programs that are built from their Go modules once."""

    compose: Path
    kustomize: Path
    helm: Path


def programs() -> Programs:
    """Returns the programs, and builds those that are not cached. Raises `CannotBuild`."""
    folder = Path(__file__).parent / "compose"
    version = (folder / "go.mod").read_text().split("compose-go/v2 ")[1].split()[0]
    return Programs(
        build(cache_dir() / "compose" / version / "compose", ".", module=folder),
        build(cache_dir() / "kustomize" / KUSTOMIZE / "kustomize", f"sigs.k8s.io/kustomize/kustomize/v5@{KUSTOMIZE}"),
        build(cache_dir() / "helm" / HELM / "helm", f"helm.sh/helm/v4/cmd/helm@{HELM}"),
    )


def module(name: str) -> Path:
    """Returns the folder of a Go module, as its project publishes it."""
    done = subprocess.run(["go", "mod", "download", "-json", name], capture_output=True, check=True)
    return Path(json.loads(done.stdout)["Dir"])


def foreign_definitions() -> Iterator[Manifest]:
    """Yields the CRDs of the Prometheus operator and of KEDA."""
    for name, files in DEFINITIONS.items():
        for file in files:
            yield yaml.safe_load((module(name) / file).read_text())


def built(
    kustomize: Path, folder: Path, components: Iterable[Path] = (), *more: Path, added: Mapping[str, Any] | None = None
) -> list[Manifest]:
    """Returns the manifests of `kubectl apply -k FOLDER`, with components added as in the overlay `managed`.

    `more` are further folders of manifests, `added` further keys of the kustomization.
    """
    if components or more:
        text = yaml.safe_load((K8S / "overlays" / "managed" / "kustomization.yaml").read_text())
        with tempfile.TemporaryDirectory() as name:
            here = Path(name).resolve()
            text["resources"] = [os.path.relpath(path.resolve(), here) for path in (folder, *more)]
            text["components"] = [os.path.relpath(path.resolve(), here) for path in components]
            text |= added or {}
            (here / "kustomization.yaml").write_text(yaml.safe_dump(text))
            return built(kustomize, here)
    done = subprocess.run([kustomize, "build", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[Settings]:
    """Yields the settings of a process with these environment variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield Settings()


def ours(variables: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables of stormfold."""
    return {name: value for name, value in variables.items() if name.startswith(PREFIX)}


def parse(arguments: Iterable[str]) -> str:
    """Returns the command that `stormfold ARGUMENTS` runs. Raises `click.UsageError` for invalid arguments."""
    name, *rest = arguments
    with click.Context(command, **command.context_settings) as context:
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"no such command: {name}")
        found.make_context(name, rest, parent=context)
    return name
