"""Manifests of stormfold, as lists of objects, and the API server that checks them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.integration.deploy.files import Manifest
from tests.support.apiserver import ApiServer

CREDENTIALS = {
    "STORMFOLD_KAFKA_SASL_USERNAME": "stormfold",
    "STORMFOLD_KAFKA_SASL_PASSWORD": "secret",
    "STORMFOLD_REDIS_USERNAME": "stormfold",
    "STORMFOLD_REDIS_PASSWORD": "secret",
}
"""The content of the Secret that the component `managed` needs."""


def of(kind: str, manifests: list[Manifest]) -> list[Manifest]:
    """Returns the manifests of a kind."""
    return [one for one in manifests if one["kind"] == kind]


def names(kind: str, manifests: list[Manifest]) -> set[str]:
    """Returns the names of the manifests of a kind."""
    return {one["metadata"]["name"] for one in of(kind, manifests)}


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yields the name of each Deployment with the labels and spec of its pods."""
    for one in of("Deployment", manifests):
        template = one["spec"]["template"]
        yield one["metadata"]["name"], template["metadata"]["labels"], template["spec"]


def variables(pod: dict[str, Any], manifests: list[Manifest], folder: Path | None = None) -> dict[str, str]:
    """Returns the environment of the worker; files of Secrets that it names are created in `folder`."""
    (container,) = pod["containers"]
    maps = {one["metadata"]["name"]: one["data"] for one in of("ConfigMap", manifests)}
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        if "configMapRef" in source:
            found |= maps[source["configMapRef"]["name"]]
        elif not source["secretRef"]["optional"]:
            found |= CREDENTIALS
    found |= {entry["name"]: entry["value"] for entry in container["env"]}
    secrets = {one["name"] for one in pod["volumes"] if "secret" in one}
    mounts = tuple(f"{one['mountPath']}/" for one in container["volumeMounts"] if one["name"] in secrets)
    for name, value in found.items():
        if mounts and folder and value.startswith(mounts):
            (folder / Path(value).name).touch()
            found[name] = str(folder / Path(value).name)
    return found


def dry_run(server: ApiServer, manifest: Manifest) -> Any:
    """Applies a manifest as a dry run that refuses unknown fields."""
    group_version = manifest["apiVersion"]
    root = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
    (kind,) = (
        one
        for one in server.request("GET", root).body["resources"]
        if one["kind"] == manifest["kind"] and "/" not in one["name"]
    )
    place = f"namespaces/{manifest['metadata']['namespace']}/" if kind["namespaced"] else ""
    return server.request(
        "PATCH",
        f"{root}/{place}{kind['name']}/{manifest['metadata']['name']}"
        "?fieldManager=tests&force=true&fieldValidation=Strict&dryRun=All",
        yaml.safe_dump(manifest).encode(),
        content_type="application/apply-patch+yaml",
    )
