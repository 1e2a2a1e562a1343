"""A real Prometheus and promtool, built from their Go module once and kept in the user's cache.

`python -m tests.support.prometheus` only builds.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import yaml

from stormfold.local.process import ServerProcess, cache_dir
from tests.support.gobuild import CannotBuild, build

VERSION = "3.16.0"
"""The version of the image in .env; that of the Go module is 0.316.0."""


class Programs(NamedTuple):
    prometheus: Path
    promtool: Path


class Sample(NamedTuple):
    """One series of a response at one time."""

    labels: dict[str, str]
    value: float


def programs() -> Programs:
    """Returns the cached programs, which are built first where they are missing. Raises `CannotBuild`."""
    major, minor, patch = VERSION.split(".")
    module = f"github.com/prometheus/prometheus/cmd/{{}}@v0.{major}{int(minor):02}.{patch}"
    folder = cache_dir() / "prometheus" / f"{VERSION}-dns"
    # Without service discovery for clouds the build takes half the time; the compose file needs only DNS.
    return Programs(
        *(build(folder / name, module.format(name), "-tags=remove_all_sd,enable_dns_sd") for name in Programs._fields)
    )


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs `promtool ARGUMENTS`; `stdout` has its output and errors. Raises `CannotBuild`."""
    return subprocess.run(
        [programs().promtool, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


class Prometheus(ServerProcess):
    """A server that scrapes `targets` (`host:port` of each job) and evaluates `rules` every `interval`.

    `alertmanagers` are its configuration of those. Raises `CannotBuild` if it cannot be built.
    """

    name = "prometheus"
    ready = b"Server is ready to receive web requests"

    def __init__(
        self,
        data_dir: Path,
        targets: Mapping[str, Sequence[str]],
        rules: Sequence[Path] = (),
        interval: str = "250ms",
        alertmanagers: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(data_dir)
        self._targets = targets
        self._rules = rules
        self._interval = interval
        self._alertmanagers = alertmanagers

    def prepare(self) -> Sequence[str]:
        """Builds the program first where it is missing."""
        self._configure()
        return [
            str(programs().prometheus),
            f"--config.file={self._config_path}",
            f"--storage.tsdb.path={self.data_dir / 'data'}",
            f"--web.listen-address={self.address}",
            "--web.enable-lifecycle",
            "--scrape.discovery-reload-interval=100ms",
        ]

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"http://{self.address}"

    async def scrape(self, targets: Mapping[str, Sequence[str]]) -> None:
        """Replaces the scraped targets."""
        self._targets = targets
        await self.reload()

    async def reload(self) -> None:
        """Makes it read its configuration and its rules again."""
        self._configure()
        async with aiohttp.ClientSession() as session, session.post(f"{self.url}/-/reload") as answer:
            assert answer.status == 200, await answer.text()

    async def query(self, expression: str) -> list[Sample]:
        """Returns the current value of an expression, a vector or a scalar."""
        data = await self.ask("query", query=expression)
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        assert data["resultType"] == "vector", data["resultType"]
        return [Sample(one["metric"], float(one["value"][1])) for one in data["result"]]

    async def value(self, expression: str) -> float | None:
        """Returns the value of an expression with at most one series; None if it has none."""
        found = await self.query(expression)
        assert len(found) <= 1, found
        return found[0].value if found else None

    async def ask(self, path: str, **parameters: str) -> Any:
        """Returns the data of a response of `/api/v1/PATH`."""
        url = f"{self.url}/api/v1/{path}"
        async with aiohttp.ClientSession() as session, session.get(url, params=parameters) as answer:
            body = await answer.json()
        assert body["status"] == "success", body
        return body["data"]

    @property
    def _config_path(self) -> Path:
        return self.data_dir / "prometheus.yml"

    def _configure(self) -> None:
        config = {
            "global": {
                "scrape_interval": self._interval,
                "scrape_timeout": self._interval,
                "evaluation_interval": self._interval,
            },
            "alerting": {"alertmanagers": list(self._alertmanagers)},
            "rule_files": [str(path.absolute()) for path in self._rules],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
                for job, addresses in self._targets.items()
            ],
        }
        self._config_path.write_text(yaml.safe_dump(config))


if __name__ == "__main__":
    try:
        print(*programs(), sep="\n")
    except CannotBuild as error:
        sys.exit(str(error))
