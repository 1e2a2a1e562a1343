"""A real Alertmanager, built from its Go module once and kept in the user's cache.

`python -m tests.support.alertmanager` only builds.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from stormfold.local.process import ServerProcess, cache_dir
from tests.support.gobuild import CannotBuild, build

VERSION = "v0.35.0"
MODULE = "github.com/prometheus/alertmanager"
PAGES = ("elm", "mantine")
"""User interfaces that the program embeds and the Go module lacks: they need Node.js. Empty pages replace them."""


def program() -> Path:
    """The cached Alertmanager, built first if it is missing; raises `CannotBuild`."""
    folder = cache_dir() / "alertmanager" / VERSION
    if (folder / "alertmanager").exists():
        return folder / "alertmanager"
    return build(folder / "alertmanager", "./cmd/alertmanager", module=_source(folder / "source"))


def _source(folder: Path) -> Path:
    """A copy of the module with the files that it embeds."""
    if shutil.which("go") is None:
        raise CannotBuild("go is needed to build alertmanager")
    found = subprocess.run(
        ["go", "mod", "download", "-json", f"{MODULE}@{VERSION}"], stdout=subprocess.PIPE, check=True
    ).stdout
    shutil.copytree(json.loads(found)["Dir"], folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
    # Modules are read-only.
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    for page in PAGES:
        path = folder / "ui" / "app" / "dist" / page / "index.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("<!doctype html>")
    return folder


class Alertmanager(ServerProcess):
    """A server with a configuration as text. Raises `CannotBuild` if it can't be built here."""

    name = "alertmanager"
    ready = b"Listening on"

    def __init__(self, data_dir: Path, config: str, *options: str) -> None:
        super().__init__(data_dir)
        self._config = config
        self._options = options

    def prepare(self) -> Sequence[str]:
        """Builds it first if it is missing."""
        path = self.data_dir / "alertmanager.yml"
        path.write_text(self._config)
        return [
            str(program()),
            f"--config.file={path}",
            f"--storage.path={self.data_dir / 'data'}",
            f"--web.listen-address={self.address}",
            "--cluster.listen-address=",
            *self._options,
        ]

    async def alerts(self, put: Sequence[Mapping[str, Any]] = ()) -> Any:
        """Posts alerts, if any; returns those that it has then."""
        url = f"http://{self.address}/api/v2/alerts"
        async with aiohttp.ClientSession() as session:
            async with session.post(url, json=list(put)) as answer:
                assert answer.status == 200, await answer.text()
            async with session.get(url) as answer:
                return await answer.json()


if __name__ == "__main__":
    try:
        print(program())
    except CannotBuild as error:
        sys.exit(str(error))
