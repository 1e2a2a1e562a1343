"""Grafana's own definitions of dashboards and panels, from its npm package: a compiler says what does not fit.

Grafana itself comes from no registry but those of containers. Of the files that provision it no package has a
definition: theirs is here, after its documentation.
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
// Text is not assignable to an enumeration of texts, unless one says so.
type Written<T> = T extends string ? `${{T}}`
  : T extends number | boolean | null | undefined ? T
  : T extends (infer U)[] ? Written<U>[]
  : T extends object ? {{ [K in keyof T]: Written<T[K]> }}
  : T;
"""


class PrometheusData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a data source of Prometheus takes besides."""

    httpMethod: Literal["GET", "POST"] = "POST"
    timeInterval: str = "15s"
    queryTimeout: str | None = None
    manageAlerts: bool = True
    disableMetricsLookup: bool = False
    customQueryParameters: str | None = None


class Datasource(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One of a file in provisioning/datasources; keys under Grafana's names, here and below."""

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
    """Of dashboards that are files."""

    path: str
    foldersFromFilesStructure: bool = False


class Provider(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One of a file in provisioning/dashboards."""

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
    """The folder with Grafana's definitions and TypeScript, fetched first where it is missing. Raises `CannotBuild`."""
    npm = shutil.which("npm")
    if npm is None:
        raise CannotBuild("npm is needed to fetch Grafana's definition of a dashboard")
    folder = cache_dir() / "grafana-schema" / f"{version}-{TYPESCRIPT}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            new = folder.with_name("new")
            packages = [f"@grafana/schema@{version}", f"typescript@{TYPESCRIPT}"]
            command = [npm, "install", "--prefix", str(new), "--no-audit", "--no-fund", *packages]
            said = subprocess.run(command, capture_output=True, text=True, check=False)
            if said.returncode != 0:
                raise RuntimeError(f"fetching Grafana's definitions failed:\n{said.stderr[-2000:]}")
            new.replace(folder)
    return folder


def mistakes(version: str, dashboards: Mapping[str, Any], folder: Path) -> str:
    """What in the dashboards, by name, Grafana of this version does not define; empty if all is well.

    `folder` is for the compiler's files. Raises `CannotBuild`.
    """
    (folder / "node_modules").symlink_to(definitions(version) / "node_modules")
    for name, dashboard in dashboards.items():
        (folder / f"{name}.ts").write_text(_HEAD + "".join(_declarations(dashboard)))
    options = ["--noEmit", "--strict", "--skipLibCheck", "--lib", "es2022"]
    options += ["--module", "esnext", "--moduleResolution", "bundler"]
    compiler = [str(folder / "node_modules" / ".bin" / "tsc"), *options, *(f"{name}.ts" for name in dashboards)]
    said = subprocess.run(compiler, cwd=folder, capture_output=True, text=True, check=False)
    return said.stdout


def _declarations(dashboard: Any) -> Iterator[str]:
    yield f"export const dashboard: Written<Dashboard> = {json.dumps(dashboard, indent=1)};\n"
    for kind, name in _PANELS.items():
        yield f'import type * as {name} from "{_RAW}/composable/{kind}/panelcfg/x/{name}PanelCfg_types.gen";\n'
    # What a dashboard leaves open its panels define.
    for panel in dashboard["panels"]:
        if panel["type"] in _PANELS:
            kind, name = _PANELS[panel["type"]], f"panel{panel['id']}"
            yield f"export const {name}: Written<{kind}.Options> = {json.dumps(panel['options'], indent=1)};\n"
            if custom := panel.get("fieldConfig", {}).get("defaults", {}).get("custom"):
                yield f"export const {name}Field: Written<{kind}.FieldConfig> = {json.dumps(custom, indent=1)};\n"
