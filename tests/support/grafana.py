"""Checks dashboards and panels with the TypeScript compiler against Grafana's own definitions from its npm package.

Grafana itself is available as a container only. No package defines its provisioning files, so their definition is here,
following its documentation.
"""

import fcntl
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from stormfold.local.process import cache_dir
from tests.support.gobuild import CannotBuild

TYPESCRIPT = "5.9.3"
_PANELS = {"stat": "Stat", "table": "Table", "text": "Text", "timeseries": "TimeSeries"}
_RAW = "@grafana/schema/dist/esm/raw"
_HEAD = f"""\
import type {{ Dashboard }} from "{_RAW}/dashboard/x/Dashboard_types.gen";
// A string is assignable to an enumeration of strings only with this type.
type Written<T> = T extends string ? `${{T}}`
  : T extends number | boolean | null | undefined ? T
  : T extends (infer U)[] ? Written<U>[]
  : T extends object ? {{ [K in keyof T]: Written<T[K]> }}
  : T;
"""


class PrometheusData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Further options of a data source of type Prometheus."""

    httpMethod: Literal["GET", "POST"] = "POST"
    timeInterval: str = "15s"
    queryTimeout: str | None = None
    manageAlerts: bool = True
    disableMetricsLookup: bool = False
    customQueryParameters: str | None = None


class Datasource(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One data source of a file in provisioning/datasources. Keys have Grafana's names, here and below."""

    name: str
    type: str
    access: Literal["proxy", "direct"]
    url: str
    uid: str | None = None
    orgId: int = 1
    isDefault: bool = False
    editable: bool = False
    version: int = 1
    jsonData: PrometheusData


class DatasourcesFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A file in provisioning/datasources."""

    apiVersion: Literal[1]
    prune: bool = False
    datasources: list[Datasource]


class ProviderOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Options of a provider of dashboard files."""

    path: str
    foldersFromFilesStructure: bool = False


class Provider(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One provider of a file in provisioning/dashboards."""

    name: str
    type: Literal["file"]
    orgId: int = 1
    folder: str = ""
    folderUid: str = ""
    disableDeletion: bool = False
    updateIntervalSeconds: int = 10
    allowUiUpdates: bool = False
    options: ProviderOptions


class DashboardsFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A file in provisioning/dashboards."""

    apiVersion: Literal[1]
    providers: list[Provider]


def definitions(version: str) -> Path:
    """Returns the folder with Grafana's definitions and TypeScript, downloaded where missing. Raises `CannotBuild`."""
    npm = shutil.which("npm")
    if npm is None:
        raise CannotBuild("npm is needed to download Grafana's definition of a dashboard")
    folder = cache_dir() / "grafana-schema" / f"{version}-{TYPESCRIPT}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            new = folder.with_name("new")
            packages = [f"@grafana/schema@{version}", f"typescript@{TYPESCRIPT}"]
            command = [npm, "install", "--prefix", str(new), "--no-audit", "--no-fund", *packages]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"npm could not download Grafana's definitions:\n{done.stderr[-2000:]}")
            new.replace(folder)
    return folder


def mistakes(version: str, dashboards: Mapping[str, Any], folder: Path) -> str:
    """Returns the compiler's errors about dashboards, by name, for a version of Grafana; empty if there are none.

    `folder` is for the compiler's files. Raises `CannotBuild`.
    """
    (folder / "node_modules").symlink_to(definitions(version) / "node_modules")
    for name, dashboard in dashboards.items():
        (folder / f"{name}.ts").write_text(_HEAD + "".join(_declarations(dashboard)))
    options = ["--noEmit", "--strict", "--skipLibCheck", "--lib", "es2022"]
    options += ["--module", "esnext", "--moduleResolution", "bundler"]
    compiler = [str(folder / "node_modules" / ".bin" / "tsc"), *options, *(f"{name}.ts" for name in dashboards)]
    done = subprocess.run(compiler, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout


def _declarations(dashboard: Any) -> Iterator[str]:
    yield f"export const dashboard: Written<Dashboard> = {json.dumps(dashboard, indent=1)};\n"
    for kind, name in _PANELS.items():
        yield f'import type * as {name} from "{_RAW}/composable/{kind}/panelcfg/x/{name}PanelCfg_types.gen";\n'
    # The options of panels have definitions of their own.
    for panel in dashboard["panels"]:
        if panel["type"] in _PANELS:
            kind, name = _PANELS[panel["type"]], f"panel{panel['id']}"
            yield f"export const {name}: Written<{kind}.Options> = {json.dumps(panel['options'], indent=1)};\n"
            if custom := panel.get("fieldConfig", {}).get("defaults", {}).get("custom"):
                yield f"export const {name}Field: Written<{kind}.FieldConfig> = {json.dumps(custom, indent=1)};\n"
