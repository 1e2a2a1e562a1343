"""docker-compose.yml in an engine: its services, the requests that a user would send, and what must hold afterwards."""

import json
import shutil
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import yaml

from tests.integration.deploy.files import COMPOSE, ROOT
from tests.support.buildah import buildah
from tests.support.engine import Engine
from tests.support.standins import STAND_INS

ABSENT = "kafka-exporter", "redis-exporter", "grafana"
"""Services whose images cannot be had without a registry."""
SERVICES = "kafka", "redis", "worker", "receive", "alertmanager", "prometheus"
"""Services that keep running."""
CONFIG = """\
windows: {gap: 3s, grace: 1s, slice: 21s}
publish: [Storm, Isolated, Silenced]
"""
"""Short windows, and a manifest for every aggregate, so that all alerts are in manifests in the end."""
BASE = "docker.io/library/python"
RECEIVE, WORKER = "http://127.0.0.1:9095", "http://127.0.0.1:8080"
JSON = {"Content-Type": "application/json"}
WAIT_SECONDS = 180


@dataclass
class Stack:
    """The stack of docker-compose.yml, in which only images, windows and the times of health checks differ."""

    engine: Engine
    override: Path

    @property
    def services(self) -> Mapping[str, Any]:
        """The services of the file."""
        found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
        return found

    def compose(self, *words: str, seconds: float = 300) -> str:
        """Runs `docker compose WORDS`; returns its output."""
        return self.engine.compose(
            "--project-directory", ROOT, "--file", COMPOSE, "--file", self.override, *words, seconds=seconds
        )

    def up(self, *words: str) -> None:
        """Starts everything, and waits until all health checks pass."""
        self.compose("up", "--detach", "--wait", *words)

    def container(self, service: str) -> dict[str, Any]:
        """Returns all that the engine knows of the container of a service."""
        return self.engine.inspect(f"stormfold-{service}-1")

    def health(self, service: str) -> str:
        """Returns `healthy`, `unhealthy` or `starting`."""
        found: str = self.container(service)["State"]["Health"]["Status"]
        return found

    def healths(self, services: Iterable[str] = SERVICES) -> dict[str, str]:
        """Returns the health of each service."""
        return {service: self.health(service) for service in services}

    def fetch(self, url: str, body: Any = None) -> tuple[int, str]:
        """Sends a request to a published port; returns status and text, and 0 without an answer."""
        return self.engine.inside(lambda: request(url, body))

    def audit(self) -> dict[str, Any]:
        """Returns the report of `stormfold audit` when no group is open. It fails if an alert is missing."""
        deadline = time.monotonic() + WAIT_SECONDS
        words = "exec", "-T", "worker", "stormfold", "audit", "--wait", str(WAIT_SECONDS), "-o", "json"
        while True:
            (found,) = json.loads(self.compose(*words))
            if found["open"] == 0 or time.monotonic() > deadline:
                assert found["balanced"] and found["open"] == 0, found
                return dict(found)
            time.sleep(1)

    def manifests(self, folder: Path) -> list[dict[str, Any]]:
        """Returns the manifests in the volume `storms`, copied as the page shows it."""
        shutil.rmtree(folder, ignore_errors=True)
        self.compose("cp", "worker:/storms", str(folder))
        found = [yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")]
        return [one for one in found if one["kind"] == "AlertStorm"]

    def counts(self, folder: Path) -> Counter[str]:
        """Returns the number of alerts in the manifests, by the name of the alert."""
        found = Counter[str]()
        for one in self.manifests(folder):
            found[one["spec"]["groupLabels"].get("alertname", "")] += one["spec"]["alertCount"]
        return found


def request(url: str, body: Any = None) -> tuple[int, str]:
    """Sends a request; returns status and text of the answer, and 0 with the reason if there is none."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, JSON), timeout=15) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


@dataclass
class Sender:
    """Sends one alert after the other to the receiver, and each again until it is accepted."""

    name: str
    accepted: int = 0
    repeated: int = 0
    """Requests that were sent again: their alerts may count twice."""
    ended: bool = False
    _stop: Event = field(default_factory=Event)
    _gave_up: Event = field(default_factory=Event)

    def run(self) -> None:
        """Runs until `stop` is called and the last alert is accepted."""
        while not self._stop.is_set():
            alert = {"labels": {"alertname": self.name, "pod": f"p{self.accepted}"}}
            while request(f"{RECEIVE}/alerts", alert)[0] != 200:
                if self._gave_up.is_set():
                    return
                self.repeated += 1
                time.sleep(0.2)
            self.accepted += 1
            time.sleep(0.05)
        self.ended = True

    def stop(self) -> None:
        """Ends it after the alert in hand."""
        self._stop.set()

    def give_up(self) -> None:
        """Ends it even if the alert in hand is not accepted."""
        self.stop()
        self._gave_up.set()


def load_images(engine: Engine, services: Mapping[str, Any], tags: Mapping[str, str]) -> None:
    """Builds the worker's image by the Dockerfile, and makes the stand-ins."""
    for service, make in STAND_INS.items():
        root = engine.folder / service
        instructions = make(root)
        name = str(services[service]["image"])
        for tag, value in tags.items():
            name = name.replace(f"${{{tag}}}", value)
        engine.load(name, root, instructions)
    folder = engine.folder / "buildah"
    folder.mkdir()
    archive = engine.folder / "worker.tar"
    with buildah(folder) as builder:
        builder.base(f"{BASE}:{tags['PYTHON_TAG']}")
        builder.build(ROOT, "localhost/stormfold")
        builder("push", "localhost/stormfold", f"docker-archive:{archive}:stormfold:{tags['WORKER_TAG']}")
    engine.docker("load", "--input", archive)
    archive.unlink()


def write_override(folder: Path, services: Mapping[str, Any]) -> Path:
    """Writes the differences to docker-compose.yml; returns the file."""
    (folder / "stormfold.yaml").write_text(CONFIG)
    config = f"{folder / 'stormfold.yaml'}:/etc/stormfold/stormfold.yaml:ro"
    found: dict[str, Any] = {name: {"profiles": ["absent"]} for name in ABSENT}
    for name in SERVICES:
        found[name] = {"healthcheck": {"interval": "2s"}}
        if "STORMFOLD_CONFIG" in services[name].get("environment", {}):
            found[name]["volumes"] = [config]
    path = folder / "override.yaml"
    path.write_text(yaml.safe_dump({"services": found}))
    return path
